"""What the tests of reconcile share."""

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest
from bench import Bench
from data_plane import DataPlane, deployment
from fake_kube_ray import KubeRayBench, several_rays
from fake_ray import FakeRay
from on_nodes import OnNodes
from rebalance_loop import begin

from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.kube_ray import clusters
from moe_operator.runtimes.ray_cluster.serve_rest import cluster


@pytest.fixture
def plane() -> DataPlane:
    return DataPlane(deployment())


@pytest.fixture
def make_plane():
    def make(**experts: Any) -> DataPlane:
        return DataPlane(deployment(**experts))

    return make


@pytest.fixture
async def bench(http: HttpClient, fake_ray: FakeRay, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name in ("FRESH_SECONDS", "ABSENT_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(cluster, name, 0.0)
    yield Bench(http, fake_ray)


@pytest.fixture
async def ready(bench: Bench) -> Bench:
    bench.apply()
    await bench.ready()
    await bench.work(2, seconds=5.0)
    return bench


@pytest.fixture
def start(bench: Bench) -> Callable[..., Any]:
    """Begin to rebalance its deployment."""
    return partial(begin, bench)


@pytest.fixture
async def kube_ray_bench(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KubeRayBench]:
    async with several_rays() as (rays, port):
        monkeypatch.setattr(clusters, "SERVE_PORT", port)
        yield KubeRayBench(http, rays[0], rays=rays)


@pytest.fixture
async def running(kube_ray_bench: KubeRayBench) -> KubeRayBench:
    kube_ray_bench.apply()
    await kube_ray_bench.ready()
    return kube_ray_bench


@pytest.fixture
async def on_nodes(kube_ray_bench: KubeRayBench) -> OnNodes:
    kube_ray_bench.apply(experts={"shards": 4, "slotsPerShard": 8})
    await kube_ray_bench.ready()
    there = OnNodes(kube_ray_bench)
    await kube_ray_bench.work(2, seconds=1.0)
    return there
