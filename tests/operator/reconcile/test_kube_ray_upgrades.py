"""Passes over a MoEDeployment on KubeRay while one Ray cluster takes the place of another, or shall not."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from aiohttp import web
from fake_kube_ray import KubeRayBench
from kube_ray_objects import IMAGE, OTHER_IMAGE

from moe_contract.base import CONTRACT
from moe_contract.report import DirectoryReport
from moe_operator.errors import StaleBasisError
from moe_operator.kube.api import Json
from moe_operator.kube.errors import KubeError
from moe_operator.kube.resources import POD_DISRUPTION_BUDGETS, PODS, RAY_SERVICES, SECRETS, SERVICES, Resource
from moe_operator.runtimes.kube_ray import succession


async def test_an_upgrade_moves_requests_once_the_new_cluster_serves(running: KubeRayBench) -> None:
    running.kube_ray.holds = True
    running.rays[1].report = lambda config: None  # it loads its experts
    running.change(runtime=OTHER_IMAGE)
    await running.work(2, seconds=1.0)
    config = running.child(RAY_SERVICES)["spec"]["serveConfigV2"]
    assert running.condition("Progressing") == "True Upgrading"
    assert "Ray cluster tiny-2 is being started beside tiny-1" in running.message("Progressing")
    assert "API keys, model, shards and settings change once it is over" in running.message("Progressing")
    running.change(experts={"shards": 4})  # waits: it would reach the new cluster alone
    await running.work(2, seconds=1.0)
    assert running.child(RAY_SERVICES)["spec"]["serveConfigV2"] == config
    running.kube_ray.holds = False
    await running.work(2, seconds=1.0)  # KubeRay has turned to the new one
    assert (running.selected, running.condition("Ready")) == ("tiny-1", "True Available")
    assert running.child(RAY_SERVICES)["spec"]["serveConfigV2"] == config
    running.rays[1].report = running.directory
    await running.work(1, seconds=1.0)
    assert (running.selected, running.condition("Ready")) == ("tiny-2", "True Available")
    await running.work(5, seconds=1.0)
    assert running.told == ["core", "experts-0", "experts-1", "experts-2", "experts-3"]
    assert running.kube_ray.started == 2


async def test_what_cannot_be_read_during_an_upgrade_stops_no_pass(running: KubeRayBench) -> None:
    running.kube_ray.holds = True
    running.change(runtime=OTHER_IMAGE)
    await running.work(2, seconds=1.0)
    running.restart()  # what is there is all that is known
    for text in ("no configuration", "nor this"):
        running.edit(RAY_SERVICES, "tiny", serveConfigV2=text)
        await running.work(2, seconds=1.0, kube_ray=False)
    assert running.condition("Degraded") == "True ForeignWriter"
    assert "changed RayService team/tiny (spec.serveConfigV2)" in running.message("Degraded")


async def test_an_upgrade_that_finds_no_room_says_so_and_the_old_cluster_answers(running: KubeRayBench) -> None:
    running.kube_ray.holds = True
    running.change(runtime=OTHER_IMAGE)
    await running.work(1, seconds=1.0)
    running.kube_ray.step()
    pending = {"type": "PodScheduled", "status": "False", "message": "0/2 nodes are available: 2 Insufficient cpu."}
    head = running.child(PODS, "tiny-2-head")
    running.kube.put(PODS, {**head, "status": {"conditions": [pending]}})
    await running.work(2, seconds=1.0)
    assert "pod tiny-2-head has no node: 0/2 nodes are available" in running.message("Progressing")
    assert (running.selected, running.condition("Ready")) == ("tiny-1", "True Available")


async def test_the_new_cluster_begins_with_the_placement_of_the_old_one(running: KubeRayBench) -> None:
    running.change(runtime=OTHER_IMAGE)
    await running.work(3, seconds=1.0)
    old, new = (ray.configs for ray in running.rays[:2])
    assert new == old
    assert running.selected == "tiny-2"


def tells(bench: KubeRayBench, number: int, digest: str | None = None, contract: int = CONTRACT) -> None:
    """What the directory of a cluster says of its checkpoint and its release."""

    def report(config: Any) -> DirectoryReport | None:
        told = bench.directory(config)
        if told is None or told.model is None:
            return told
        model = told.model.model_copy(update={"digest": digest or told.model.digest})
        return told.model_copy(update={"model": model, "contract": contract})

    bench.rays[number - 1].report = report


async def test_the_new_cluster_has_the_statistics_of_the_old_one_before_it_is_asked(running: KubeRayBench) -> None:
    led_to: list[str] = []

    async def taken(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            led_to.append(running.selected)
        return await running.rays[1].answer(request)

    running.rays[0].statistics = b"of the traffic"
    running.rays[1].override = taken
    tells(running, 2)
    running.change(runtime=OTHER_IMAGE)
    await running.work(4, seconds=1.0)
    assert (running.selected, running.rays[1].statistics) == ("tiny-2", b"of the traffic")
    assert led_to == ["tiny-1"]


async def test_they_are_handed_over_once_though_the_service_is_not_written_at_once(
    running: KubeRayBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[str] = []
    refused: list[str] = []

    async def taken(request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            handed.append(request.path)
        return await running.rays[1].answer(request)

    apply = running.kube.apply

    async def refusing(resource: Resource, body: Mapping[str, Any]) -> Json:
        if resource is SERVICES and handed and len(refused) < 2:
            refused.append(body["metadata"]["name"])
            raise KubeError("etcd is slow", 500)
        return await apply(resource, body)

    running.rays[0].statistics = b"of the traffic"
    running.rays[1].override = taken
    tells(running, 2)
    running.change(runtime=OTHER_IMAGE)
    monkeypatch.setattr(running.kube, "apply", refusing)
    for _ in range(6):
        with contextlib.suppress(KubeError):
            await running.work(1, seconds=1.0)
    assert (running.selected, len(refused), len(handed)) == ("tiny-2", 2, 1)


def is_silent(bench: KubeRayBench) -> None:
    tells(bench, 2)
    bench.rays[0].report = lambda config: None


def hangs(bench: KubeRayBench) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/internal/statistics"):
            await asyncio.sleep(60.0)
        return await bench.rays[0].answer(request)

    tells(bench, 2)
    bench.rays[0].override = answer


@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (lambda bench: tells(bench, 2, digest="sha256:other"), "it serves another checkpoint"),
        (lambda bench: tells(bench, 2, contract=0), "its release takes none"),
        (is_silent, "internal/report answers HTTP 503"),
        (hangs, "they did not come within 0.2 s"),
    ],
)
async def test_requests_go_to_the_new_cluster_without_statistics_too(
    running: KubeRayBench,
    prepare: Callable[[KubeRayBench], None],
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if prepare is hangs:
        monkeypatch.setattr(succession, "TOLD_SECONDS", 0.2)
    running.rays[0].statistics = b"of the traffic"
    prepare(running)
    running.change(runtime=OTHER_IMAGE)
    await running.work(4, seconds=1.0)
    assert (running.selected, running.rays[1].statistics) == ("tiny-2", b"")
    assert "statistics of the traffic begin anew in Ray cluster tiny-2: " in caplog.text
    assert why in caplog.text


async def test_an_error_while_statistics_are_handed_over_leaves_them_to_the_next_pass(
    running: KubeRayBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand_over, failures = succession._hand_over, [KubeError("the API server is away")]

    async def fails_once(*arguments: Any) -> None:
        if failures:
            raise failures.pop()
        await hand_over(*arguments)

    monkeypatch.setattr(succession, "_hand_over", fails_once)
    running.rays[0].statistics = b"of the traffic"
    tells(running, 2)
    running.change(runtime=OTHER_IMAGE)
    for _ in range(6):
        with contextlib.suppress(KubeError):
            await running.work(1, seconds=1.0)
    assert (failures, running.selected, running.rays[1].statistics) == ([], "tiny-2", b"of the traffic")


async def test_where_the_former_cluster_has_gone_requests_go_to_the_new_one(running: KubeRayBench) -> None:
    running.rays[1].report = lambda config: None
    running.change(runtime=OTHER_IMAGE)
    await running.work(3, seconds=1.0)
    assert running.selected == "tiny-1"
    running.kube_ray.stop_former()
    await running.work(1, seconds=1.0)
    assert running.selected == "tiny-2"


async def test_what_was_decided_before_an_upgrade_is_not_written_in_it(running: KubeRayBench) -> None:
    running.change(experts={"shards": 3})
    live = running.child(RAY_SERVICES)
    pending = {"rayClusterName": "tiny-9"}
    directory = running.rays[0].report

    def begin_upgrade(config: Any) -> Any:  # between the look and the write
        status = {**live["status"], "pendingServiceStatus": pending}
        running.kube.put(RAY_SERVICES, {**live, "status": status})
        running.watch()
        return directory(config)

    running.rays[0].report = begin_upgrade
    with pytest.raises(StaleBasisError):
        await running.reconciler.reconcile("team/tiny")
    assert running.told == ["core", "experts-0", "experts-1"]


GPU = {"resources": {"gpus": 1, "accelerator": "H100"}}


def asked(bench: KubeRayBench) -> dict[str, list[Any]]:
    """What processes ask Ray for beside our own resources, by deployment; each kind of options once."""
    found: dict[str, list[Any]] = {}
    for application in json.loads(bench.child(RAY_SERVICES)["spec"]["serveConfigV2"])["applications"]:
        for each in application["deployments"]:
            options = {k: v for k, v in each["ray_actor_options"].items() if k not in ("num_cpus", "resources")}
            if options not in found.setdefault(each["name"], []):
                found[each["name"]].append(options)
    return found


def offered(bench: KubeRayBench) -> list[Any]:
    """GPUs that a pod of attention, and one of a shard, offers to Ray."""
    groups = bench.child(RAY_SERVICES)["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return [group["resources"].get("GPU") for group in groups]


async def test_a_new_cluster_is_asked_for_what_its_pods_offer(running: KubeRayBench) -> None:
    running.change(experts={"shards": 2, **GPU})
    await running.work(1, seconds=1.0)
    assert offered(running) == [None, "1"]
    assert asked(running)["experts"] == [{"num_gpus": 1, "accelerator_type": "H100"}]
    await running.work(4, seconds=1.0)
    assert (running.selected, running.condition("Ready")) == ("tiny-2", "True Available")
    assert running.kube_ray.started == 2


async def test_resources_that_change_again_during_an_upgrade_are_those_of_the_pods(running: KubeRayBench) -> None:
    running.kube_ray.holds = True
    running.change(experts={"shards": 2, **GPU})
    await running.work(2, seconds=1.0)
    running.change(experts={"shards": 4, "resources": {"gpus": 0}}, attention=GPU)
    await running.work(2, seconds=1.0)
    assert offered(running) == ["1", None]
    found = asked(running)
    assert (found["attention"], found["experts"]) == ([{"num_gpus": 1, "accelerator_type": "H100"}], [{}])
    assert running.told == ["core", "experts-0", "experts-1"]


async def test_without_upgrades_all_ask_for_what_the_pods_that_run_offer(running: KubeRayBench) -> None:
    none = {"kubeRay": {"image": IMAGE, "upgrade": {"strategy": "None"}}}
    running.change(runtime=none, experts={"shards": 3, **GPU}, attention=GPU)
    await running.work(3, seconds=1.0)
    assert running.told == ["core", "experts-0", "experts-1", "experts-2"]
    found = asked(running)
    assert (found["attention"], found["experts"]) == ([{}], [{}])
    running.change(runtime={"kubeRay": {"image": IMAGE, "upgrade": {"strategy": "NewCluster"}}})
    await running.work(1, seconds=1.0)
    wanted = {"num_gpus": 1, "accelerator_type": "H100"}
    assert (asked(running)["attention"], asked(running)["experts"]) == ([wanted], [wanted])
    assert offered(running) == ["1", "1"]


async def test_without_upgrades_a_change_of_pods_waits_and_that_is_told(running: KubeRayBench) -> None:
    running.change(runtime={"kubeRay": {"image": IMAGE, "upgrade": {"strategy": "None"}}})
    await running.work(3, seconds=1.0)
    assert running.condition("Progressing") == "False Settled"
    other = {"image": "registry.example.org/moe-serving:0.2.0"}
    running.change(runtime={"kubeRay": {**other, "upgrade": {"strategy": "None"}}}, experts={"shards": 3})
    await running.work(5, seconds=1.0)
    assert running.condition("Progressing") == "False UpgradeHeld"
    assert "upgrade.strategy is None: Ray cluster tiny-1 goes on as it was" in running.message("Progressing")
    assert (running.condition("Ready"), running.kube_ray.started) == ("True Available", 1)
    assert running.told == ["core", "experts-0", "experts-1", "experts-2"]  # what needs no other pods goes on
    running.change(runtime={"kubeRay": other})
    await running.work(5, seconds=1.0)
    assert (running.selected, running.condition("Progressing")) == ("tiny-2", "False Settled")


async def test_a_token_whose_secret_is_deleted_is_another_one_on_another_cluster(running: KubeRayBench) -> None:
    def token() -> str:
        return str(running.child(SECRETS, "tiny-moe-ray-token")["data"]["auth_token"])

    before, revision = token(), running.kube.moe()["status"]["placement"]["revision"]
    running.kube.drop(SECRETS, "tiny-moe-ray-token")
    await running.work(1, seconds=300.0)
    assert token() != before
    await running.work(1)
    assert (running.selected, running.condition("Progressing")) == ("tiny-1", "True Upgrading")
    await running.work(4, seconds=1.0)
    assert (running.selected, running.condition("Ready")) == ("tiny-2", "True Available")
    assert running.kube.moe()["status"]["placement"]["revision"] == revision
    assert running.kube_ray.started == 2


async def test_a_cluster_made_anew_without_upgrades_has_what_is_asked_for(running: KubeRayBench) -> None:
    running.change(runtime={"kubeRay": {"image": IMAGE, "upgrade": {"strategy": "None"}}})
    await running.work(2, seconds=1.0)
    running.change(experts={"shards": 2, **GPU})
    running.kube.drop(RAY_SERVICES, "tiny")
    await running.work(1, seconds=1.0, kube_ray=False)
    assert (asked(running)["experts"], offered(running)) == ([{"num_gpus": 1, "accelerator_type": "H100"}], [None, "1"])


async def test_budgets_count_pods_of_the_cluster_that_answers(running: KubeRayBench) -> None:
    running.rays[1].report = lambda config: None
    running.change(runtime=OTHER_IMAGE)

    def counted() -> set[str]:
        budgets = [running.child(POD_DISRUPTION_BUDGETS, f"tiny-moe-{role}") for role in ("attention", "experts")]
        return {each["spec"]["selector"]["matchLabels"]["ray.io/cluster"] for each in budgets}

    await running.work(3, seconds=1.0)
    assert counted() == {"tiny-1"}
    running.rays[1].report = running.directory
    await running.work(3, seconds=1.0)
    assert counted() == {"tiny-2"}
