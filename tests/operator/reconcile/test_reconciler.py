"""Whole passes over one MoEDeployment, the times in the test's hand: Kubernetes in memory, a fake Ray behind HTTP."""

from typing import Any

import pytest
from aiohttp import web
from bench import INTERNAL_KEY, Bench, broken

from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeCluster


@pytest.mark.parametrize("status", ["RUNNING", "UNHEALTHY", "DEPLOYING", "DEPLOY_FAILED"])
@pytest.mark.parametrize("restarted", [False, True])
async def test_ready_does_not_outlive_the_reports(bench: Bench, status: str, restarted: bool) -> None:
    bench.apply()
    await bench.ready()
    bench.directory.answers = False
    bench.ray.set_status(bench.core, status)
    if restarted:
        bench.restart()
    await bench.work()
    assert bench.condition("Ready") == "True Available"
    await bench.work(4, seconds=10.0)
    assert bench.condition("Ready").startswith("False")
    assert bench.condition("Degraded").startswith("True")


async def test_a_dashboard_that_misses_one_call_changes_no_condition(bench: Bench) -> None:
    """The directory still reports; only what it was told last is not seen."""

    async def without_dashboard(request: web.Request) -> web.StreamResponse:
        return await (bench.ray.answer if request.path.endswith("/internal/report") else broken)(request)

    bench.apply()
    await bench.ready()
    await bench.work()
    before = bench.kube.moe()["status"]
    bench.ray.override = without_dashboard
    await bench.work(seconds=1.0)
    assert bench.kube.moe()["status"] == before
    await bench.work(seconds=5.0)
    assert bench.condition("RuntimeReachable") == "False RayUnreachable"


async def test_a_core_application_that_has_never_reported_is_not_missed_while_it_starts(bench: Bench) -> None:
    bench.directory.answers = False
    bench.ray.status = "DEPLOYING"
    bench.apply()
    await bench.work(10, seconds=10.0)
    assert bench.condition("Degraded") == "False AsExpected"
    bench.ray.status = "RUNNING"
    await bench.work(3, seconds=10.0)
    assert bench.condition("Degraded") == "True DirectoryUnreachable"


async def test_neither_is_one_that_is_woken(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.change(experts={"shards": 0})
    await bench.work(2)
    assert bench.condition("Ready") == "True Asleep"
    bench.directory.answers, bench.ray.status = False, "DEPLOYING"
    bench.change(experts={"shards": 2})
    await bench.work(10, seconds=10.0)
    assert bench.condition("Degraded") == "False AsExpected"


@pytest.mark.parametrize("spec", [{}, {"suspend": True, "experts": {"shards": 0}}])
async def test_ready_does_not_outlive_a_key_that_is_somebody_elses(bench: Bench, spec: Any) -> None:
    bench.apply()
    await bench.ready()
    bench.change(**spec)
    bench.kube.put(SECRETS, {"kind": "Secret", "metadata": {"name": INTERNAL_KEY, "namespace": "team"}})
    await bench.work()
    assert bench.condition("Ready") == "True Available"
    await bench.work(32, seconds=10.0)
    assert bench.condition("Ready") == "False NameConflict"


async def test_what_is_suspended_from_the_beginning_makes_nothing(bench: Bench) -> None:
    bench.apply(suspend=True)
    await bench.work(3)
    assert bench.condition("Ready") == "True Suspended"
    assert not bench.kube.exists(SECRETS, INTERNAL_KEY)
    assert bench.ray.puts == []
    assert CLEANUP_FINALIZER not in bench.finalizers()


@pytest.mark.parametrize("looks", [1, 2, 3])
async def test_a_ray_that_blinks_while_an_object_is_deleted_keeps_nothing(bench: Bench, looks: int) -> None:
    bench.apply()
    await bench.ready()
    bench.delete()
    bench.blink(looks)
    await bench.work(3, seconds=0.7)
    assert bench.ray.configs == {}
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")


async def test_neither_does_one_that_blinks_while_an_object_falls_asleep(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.change(experts={"shards": 0})
    bench.blink(2)
    await bench.work()
    assert bench.finalizers() == [CLEANUP_FINALIZER]
    await bench.work(2)
    assert bench.ray.configs == {}
    assert bench.finalizers() == []


async def test_an_object_whose_ray_runs_no_serve_any_more_goes_after_some_seconds(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.ray.configs.clear()
    bench.ray.controller = ""
    bench.delete()
    result = await bench.work(3, seconds=2.0)
    assert result.again is not None
    assert bench.condition("Degraded") == "False AsExpected"
    await bench.work(seconds=2.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")


@pytest.mark.parametrize("looks", [1, 2, 3, 4])
async def test_a_ray_that_blinks_when_the_operator_starts_loses_nothing(bench: Bench, looks: int) -> None:
    bench.apply(shards=3)
    await bench.ready()
    before = set(bench.ray.configs)
    bench.restart()
    bench.ray.puts.clear()
    bench.blink(looks)
    await bench.work(3)
    assert all({application["name"] for application in put["applications"]} == before for put in bench.ray.puts)
    assert bench.condition("Ready") == "True Available"


async def test_the_deadline_of_a_cleanup_counts_only_the_time_in_which_it_fails(bench: Bench) -> None:
    bench.apply()
    await bench.ready()
    bench.delete()
    # It was asked for long ago, while no operator ran; and Serve takes its time.
    bench.restart()
    bench.ray.deleting_reads = 20
    await bench.work(10, seconds=100.0)
    assert bench.condition("Ready") == "False Deleting"
    bench.ray.override = broken
    await bench.work(3, seconds=100.0)
    assert bench.condition("Degraded") == "True RayUnreachable"
    assert bench.finalizers() == [CLEANUP_FINALIZER]
    await bench.work(2, seconds=100.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"


UNREADABLE: list[Any] = [{"routing": {"mode": "Adaptive"}}, {"runtime": {}}, {"runtime": {"kubeRay": {}}}]


@pytest.mark.parametrize("newer", UNREADABLE)
async def test_an_object_that_these_types_cannot_read_is_told_of_and_can_be_deleted(bench: Bench, newer: Any) -> None:
    bench.apply()
    await bench.ready()
    bench.change(**newer)
    await bench.work(3)
    assert bench.condition("Ready") == "False SpecInvalid"
    assert bench.kube.reasons().count("SpecInvalid") == 1
    bench.delete()
    await bench.work(4, seconds=100.0)
    assert (bench.condition("Ready"), bench.condition("Degraded")) == ("False Deleting", "True SpecInvalid")
    await bench.work(seconds=100.0)
    assert not bench.kube.exists(MOE_DEPLOYMENTS, "tiny")
    assert bench.kube.reasons()[-1] == "CleanupAbandoned"
    assert b"cleanups_abandoned_total 1.0" in bench.metrics.exposition()


async def test_one_with_a_status_that_they_cannot_read_either(bench: Bench) -> None:
    bench.apply(rebalance={"mode": "Auto"})
    bench.kube.put(MOE_DEPLOYMENTS, {**bench.kube.moe(), "status": {"conditions": "many"}})
    await bench.work()
    assert bench.condition("Degraded") == "True SpecInvalid"


async def test_what_serve_gave_up_is_tried_anew_whatever_its_clock_says(bench: Bench) -> None:
    bench.ray.status, bench.directory.answers = "DEPLOY_FAILED", False
    bench.apply()
    await bench.work(4, seconds=9.0)
    assert len(bench.ray.puts) == 1
    await bench.work(3, seconds=9.0)
    assert [len(put["applications"]) for put in bench.ray.puts] == [1, 0, 1]


async def test_a_pass_does_not_hold_what_runs_beside_its_object(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be much, and a pass may wait for long for its turn to write."""
    bases: list[Any] = []
    apply = ServeCluster.apply

    async def look(self: ServeCluster, credential: Any, change: Any, basis: Any = None, *rest: Any) -> Any:
        bases.append(basis)
        return await apply(self, credential, change, basis, *rest)

    monkeypatch.setattr(ServeCluster, "apply", look)
    bench.ray.configs["shop"] = bench.ray.shop
    bench.apply()
    await bench.ready()
    assert bases
    assert not any("shop" in basis.applications for basis in bases)
    assert any(basis.applications for basis in bases)
    assert "shop" in bench.ray.configs
