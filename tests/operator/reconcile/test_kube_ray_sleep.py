"""Passes over a MoEDeployment on KubeRay that goes to sleep and is woken: by a scale, and by idleness."""

from typing import Any

import pytest
from fake_kube_ray import KubeRayBench

from moe_operator.kube.resources import PODS, RAY_SERVICES


async def test_sleep_takes_the_pods_and_a_wake_up_brings_the_placement_back(running: KubeRayBench) -> None:
    running.directory.running = 0
    running.change(experts={"shards": 0})
    await running.work(5, seconds=1.0)
    assert not running.kube.exists(RAY_SERVICES, "tiny")
    assert running.condition("Ready") == "True Asleep"
    assert running.finalizers() == []
    running.kube.reads.clear()
    await running.work(3, seconds=5.0)
    assert running.kube.reads[RAY_SERVICES.plural, "tiny"] == 0
    running.change(experts={"shards": 2})
    await running.work(8, seconds=1.0)
    assert running.condition("Ready") == "True Available"


@pytest.mark.parametrize("answers", [True, False])
async def test_a_scale_to_0_waits_for_requests_under_way_and_not_for_ever(running: KubeRayBench, answers: bool) -> None:
    running.directory.running = 1
    if not answers:
        running.rays[0].report = lambda config: None
    running.change(experts={"shards": 0})
    await running.work(6, seconds=10.0)
    assert running.selected == "none", "no more of them come"
    assert running.kube.exists(RAY_SERVICES, "tiny")
    await running.work(2, seconds=10.0)
    assert not running.kube.exists(RAY_SERVICES, "tiny")


async def test_one_that_is_woken_before_its_pods_went_goes_on(running: KubeRayBench) -> None:
    running.change(experts={"shards": 0})
    await running.work(3, seconds=5.0)
    assert running.selected == "none"
    running.change(experts={"shards": 2})
    await running.work(6, seconds=15.0)
    assert (running.selected, running.kube_ray.started) == ("tiny-1", 1)
    assert running.condition("Ready") == "True Available"


async def test_one_whose_head_is_gone_is_taken_away_at_once(running: KubeRayBench) -> None:
    running.kube.drop(PODS, "tiny-1-head")
    running.change(experts={"shards": 0})
    await running.work(1)
    assert not running.kube.exists(RAY_SERVICES, "tiny")


async def test_idleness_puts_it_to_sleep_by_the_scale_and_a_later_scale_wakes_it(kube_ray_bench: KubeRayBench) -> None:
    bench = kube_ray_bench
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    await bench.work(2, seconds=1800.0)  # requests are under way
    assert bench.kube.scaled == []
    bench.directory.running = 0
    await bench.work(1, seconds=5.0)
    assert bench.kube.scaled == [("moe-operator-sleep", 0)]
    assert "FellAsleep" in bench.kube.reasons()
    await bench.work(5, seconds=1.0)
    assert bench.condition("Ready") == "True Asleep"
    assert not bench.kube.exists(RAY_SERVICES, "tiny")
    assert bench.kube.moe()["status"]["sleep"] == {"shards": 2}
    bench.kube_ray.started = 0
    bench.change(experts={"shards": 2})
    await bench.ready()
    await bench.work(2, seconds=800.0)  # not at once again
    assert bench.kube.scaled == [("moe-operator-sleep", 0)]
    await bench.work(1, seconds=300.0)
    assert bench.kube.scaled == [("moe-operator-sleep", 0)] * 2


async def test_whoever_scales_in_the_same_moment_wins(kube_ray_bench: KubeRayBench) -> None:
    bench = kube_ray_bench
    bench.apply(sleep={"afterIdle": "30m"})
    await bench.ready()
    bench.directory.running = 0
    directory = bench.rays[0].report

    def scale(config: Any) -> Any:  # between the look and the write
        bench.change(experts={"shards": 3})
        return directory(config)

    bench.rays[0].report = scale
    await bench.work(1, seconds=1800.0)
    assert bench.kube.scaled == []
    bench.rays[0].report = directory
    await bench.work(6, seconds=1.0)
    assert bench.kube.moe()["spec"]["experts"]["shards"] == 3
