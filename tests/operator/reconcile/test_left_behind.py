"""What an object leaves on Ray when it goes without its finalizer; and what is found there of objects that are gone."""

import base64
import logging
from typing import Any

import pytest
from aiohttp import web
from bench import INTERNAL_KEY, Bench, broken

from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS
from moe_operator.reconcile.memory import MOST_DEPARTED

MOE = (MOE_DEPLOYMENTS.plural, "team", "tiny")


def take_the_finalizer(bench: Bench) -> None:
    """As `kubectl replace` of a manifest without it does."""
    live = bench.kube.moe()
    bench.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], "finalizers": []}})


def vanish(bench: Bench) -> None:
    """It is gone, and nobody was asked."""
    del bench.kube.objects[MOE]


def made_anew(bench: Bench, **spec: Any) -> None:
    bench.apply(**spec)
    bench.kube.objects[MOE]["metadata"]["uid"] = "u-2"
    bench.kube.objects.pop((SECRETS.plural, "team", INTERNAL_KEY))  # Kubernetes' garbage collector took it


@pytest.mark.parametrize("change", [{}, {"suspend": True}, {"runtime": None}])
async def test_a_finalizer_that_is_taken_away_is_put_back(bench: Bench, change: dict[str, Any]) -> None:
    bench.apply()
    await bench.ready()
    take_the_finalizer(bench)
    if change == {"runtime": None}:  # Ray does not answer
        bench.ray.override = broken
    else:
        bench.change(**change)
    await bench.work()
    assert bench.finalizers() == [CLEANUP_FINALIZER]


async def test_also_by_an_operator_that_never_saw_it_and_no_ray(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    take_the_finalizer(bench)
    bench.restart()
    bench.ray.override = broken
    await bench.work()
    assert bench.finalizers() == [CLEANUP_FINALIZER]


async def test_an_object_that_went_without_it_is_cleaned_up(bench: Bench) -> None:
    bench.ray.configs["shop"] = bench.ray.shop
    bench.apply()
    await bench.ready()
    vanish(bench)
    result = await bench.work()
    assert (result.status, result.again) == (None, None)
    assert bench.ray.configs == {"shop": bench.ray.shop}


async def test_it_is_waited_for_ray_for_the_deadline_and_then_given_up(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    vanish(bench)
    bench.ray.override = broken
    for _ in range(4):
        assert (await bench.work(seconds=100.0)).again is not None
    assert bench.kube.reasons()[-1] != "CleanupAbandoned"
    assert (await bench.work(seconds=100.0)).again is None
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"
    bench.ray.override = None
    await bench.work()
    assert bench.ray.configs  # nobody comes back to it


async def test_a_ray_that_answers_again_in_time(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    vanish(bench)
    bench.ray.override = broken
    await bench.work(2, seconds=100.0)
    bench.ray.override = None
    await bench.work(2, seconds=5.0)
    assert bench.ray.configs == {}


@pytest.mark.parametrize("spec", [{"deletionPolicy": "Orphan"}, {"experts": {"shards": 0}}])
async def test_what_shall_stay_or_is_not_there_is_not_cleaned_up(bench: Bench, spec: dict[str, Any]) -> None:
    bench.apply(**spec)
    await bench.work(5)
    there, puts = dict(bench.ray.configs), len(bench.ray.puts)
    vanish(bench)
    assert (await bench.work()).again is None
    assert (bench.ray.configs, len(bench.ray.puts)) == (there, puts)


async def test_a_new_object_of_the_same_name_is_not_disturbed(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    former = set(bench.ray.configs)
    made_anew(bench)
    bench.ray.deleting_reads = 3
    await bench.work(12, seconds=1.0)
    assert bench.condition("Ready") == "True Available"
    assert len(bench.ray.configs) == 3
    assert not former & set(bench.ray.configs)
    assert bench.finalizers() == [CLEANUP_FINALIZER]


async def test_former_objects_of_one_name_take_their_turns_and_are_not_remembered_without_end(bench: Bench) -> None:
    """Whoever makes and deletes an object again and again keeps no pass for long."""
    bench.apply()
    await bench.ready()
    bench.ray.override = broken
    for number in range(MOST_DEPARTED + 3):
        bench.kube.objects[MOE]["metadata"]["uid"] = f"u-{number}"
        await bench.work()
    vanish(bench)
    asked = 0

    async def counting(request: web.Request) -> web.StreamResponse:
        nonlocal asked
        asked += request.method == "GET"
        return await broken(request)

    bench.ray.override = counting
    looks = sum(bench.kube.reads.values())
    assert (await bench.work(seconds=10.0)).left_behind
    assert asked == 1
    await bench.work(MOST_DEPARTED + 3)
    assert asked == MOST_DEPARTED == len(bench.reconciler.memories.departed("team/tiny"))
    before = sum(bench.kube.reads.values()) - looks
    await bench.work(5)
    assert sum(bench.kube.reads.values()) - looks - before == 5  # one of the object itself in each pass


async def test_nothing_is_removed_for_an_object_that_only_seemed_to_be_gone(bench: Bench, monkeypatch) -> None:
    """A store or a watch may be wrong for a moment, and an API server that starts may not know the kind yet."""
    bench.apply()
    await bench.ready()
    there = dict(bench.ray.configs)

    async def nothing(key: str) -> None:
        return None

    with monkeypatch.context() as patched:
        patched.setattr(type(bench.reconciler), "_read", lambda self, key: nothing(key))
        assert (await bench.work()).again is not None
    assert bench.ray.configs == there

    async def no_kind(*_: Any) -> Any:
        raise NotFoundError("the server could not find the requested resource", 404)

    with monkeypatch.context() as patched:
        for call in ("get", "get_metadata", "list"):
            patched.setattr(bench.kube, call, no_kind)
        assert (await bench.work()).again is not None
    assert bench.ray.configs == there
    await bench.work(3, seconds=5.0)
    assert (bench.ray.configs, bench.condition("Ready")) == (there, "True Available")


async def test_one_that_others_keep_is_cleaned_up_without_it(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    live = bench.kube.moe()
    asked = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
    bench.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], **asked}})
    await bench.work(2)
    assert bench.ray.configs == {}
    assert bench.finalizers() == ["foregroundDeletion"]


@pytest.mark.parametrize("policy", ["Delete", "Orphan"])
async def test_one_that_only_others_keep_is_not_told_to_be_ready(bench: Bench, policy: str) -> None:
    bench.apply(deletionPolicy=policy)
    await bench.ready()
    live = bench.kube.moe()
    others = [f"example.com/keep-{number}" for number in range(9)]
    asked = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": [*bench.finalizers(), *others]}
    bench.kube.put(MOE_DEPLOYMENTS, {**live, "metadata": {**live["metadata"], **asked}})
    await bench.work(3, seconds=1.0)
    assert bench.finalizers() == others
    assert (bench.condition("Ready"), bench.condition("Degraded")) == ("False Deleting", "False AsExpected")
    (ready,) = (each for each in bench.kube.moe()["status"]["conditions"] if each["type"] == "Ready")
    assert "finalizers of others keep the object: example.com/keep-0, " in ready["message"]
    assert ready["message"].endswith("example.com/keep-7 and 1 more")
    again = (await bench.work()).again
    assert again is not None
    assert again >= 30.0


async def test_an_unreadable_one_that_only_others_keep_says_so(bench: Bench) -> None:
    bench.apply()
    live = bench.kube.moe()
    asked = {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["foregroundDeletion"]}
    bench.kube.put(MOE_DEPLOYMENTS, {**live, "spec": {}, "metadata": {**live["metadata"], **asked}})
    await bench.work()
    assert bench.condition("Ready") == "False Deleting"


def orphaned(bench: Bench, *namespaces: str) -> int:
    known = {f"{ns}/{name}" for kind, ns, name in bench.kube.objects if kind == MOE_DEPLOYMENTS.plural}
    return bench.reconciler.orphaned(known, namespaces)


async def test_applications_of_objects_that_are_gone_are_counted_and_named(bench: Bench, caplog) -> None:
    bench.apply()
    await bench.ready()
    assert orphaned(bench) == 0
    # By an operator that knows nothing of them; the namesake has another uid.
    bench.restart()
    made_anew(bench, serving={"routePrefix": "/anew"})
    bench.ray.configs["moe.other.gone.0123abcd"] = {"name": "moe.other.gone.0123abcd", "route_prefix": "/x"}
    bench.ray.configs["moe.mine"] = {"name": "moe.mine", "route_prefix": "/y"}
    caplog.set_level(logging.WARNING)
    await bench.work(6)
    there = dict(bench.ray.configs)
    assert [orphaned(bench) for _ in range(3)] == [4, 4, 4]
    assert orphaned(bench, "team") == 3
    assert orphaned(bench, "other") == 1
    said = [record.message for record in caplog.records if "is not there" in record.message]
    assert "moe.other.gone.0123abcd*" in "".join(said)
    assert all("'Applications left behind'" in line for line in said)
    await bench.work(3, seconds=300.0)
    assert bench.ray.configs == there


async def test_nothing_is_judged_that_was_not_looked_at_yet(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    serve = await bench.runtimes.clusters.at(bench.ray.url).observe(None)
    bench.restart()
    bench.runtimes.orphans.note(bench.ray.url, serve)
    assert orphaned(bench) == 0


async def test_a_deleted_object_leaves_no_orphans(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.ray.deleting_reads = 1
    bench.delete()
    await bench.work(3)
    assert (bench.ray.configs, orphaned(bench)) == ({}, 0)


async def test_the_names_of_one_ray_cannot_fill_the_log(bench: Bench, caplog) -> None:
    bench.apply()
    await bench.ready()
    for number in range(1500):
        name = f"moe.other.gone.{number:08x}"
        bench.ray.configs[name] = {"name": name, "route_prefix": None}
    await bench.work()
    assert 900 <= orphaned(bench) <= 1000
    assert sum("is not there" in record.message for record in caplog.records) <= 20


async def test_the_token_that_worked_last_serves_where_the_namespace_is_gone(bench: Bench) -> None:
    """With the object its Secrets went."""
    bench.ray.token = "right-token"
    host = bench.ray.url.removeprefix("http://")
    secret = {
        "kind": "Secret",
        "metadata": {
            "name": "ray",
            "namespace": "team",
            "labels": {"moe-operator.io/use": "ray-token"},
            "annotations": {"moe-operator.io/allowed-addresses": host},
        },
        "data": {"token": base64.b64encode(b"right-token").decode()},
    }
    bench.kube.put(SECRETS, secret)
    bench.apply(runtime={"tokenSecretRef": {"name": "ray"}})
    await bench.ready()
    bench.kube.objects.clear()
    assert (await bench.work(2, seconds=5.0)).again is None
    assert bench.ray.configs == {}
