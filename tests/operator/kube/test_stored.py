"""Reads of MoEDeployments cost no request; own writes are known at once; a store that lags behind is put right."""

from typing import Any

import pytest
from fake_kube import FakeKube

from moe_operator.api import MoEDeploymentStatus
from moe_operator.kube.api import Json
from moe_operator.kube.errors import ConflictError, NotFoundError
from moe_operator.kube.objects import set_cleanup_finalizer, write_status
from moe_operator.kube.resources import MOE_DEPLOYMENTS, SECRETS, Resource
from moe_operator.kube.store import ObjectStore
from moe_operator.kube.stored import StoredKube


class CountingKube(FakeKube):
    def __init__(self) -> None:
        super().__init__()
        self.gets: list[str] = []

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        self.gets.append(resource.plural)
        return await super().get(resource, namespace, name)


class Bench:
    """``team/tiny`` on an API server, and what a pass sees of it."""

    def __init__(self) -> None:
        self.server, self.store = CountingKube(), ObjectStore()
        self.kube = StoredKube(self.server, self.store)
        self.store.put(self.change())
        self.server.gets.clear()

    def change(self, **metadata: Any) -> Json:
        """Somebody else changes it."""
        known = {"namespace": "team", "name": "tiny", "uid": "u-1", **metadata}
        return self.server.put(MOE_DEPLOYMENTS, {"metadata": known, "spec": {}})

    async def read(self) -> Json:
        return await self.kube.get(MOE_DEPLOYMENTS, "team", "tiny")


@pytest.fixture
def bench() -> Bench:
    return Bench()


STATUS = MoEDeploymentStatus(ready_shards=1)


async def test_a_read_asks_nobody_and_other_kinds_are_asked_for(bench: Bench) -> None:
    assert (await bench.read())["metadata"]["name"] == "tiny"
    with pytest.raises(NotFoundError):
        await bench.kube.get(MOE_DEPLOYMENTS, "team", "other")
    with pytest.raises(NotFoundError):
        await bench.kube.get(SECRETS, "team", "tiny")
    assert bench.server.gets == ["secrets"]


async def test_a_pass_begins_with_what_the_one_before_wrote(bench: Bench) -> None:
    await set_cleanup_finalizer(bench.kube, await bench.read(), present=True)
    await write_status(bench.kube, await bench.read(), STATUS)
    live = await bench.read()
    assert await set_cleanup_finalizer(bench.kube, live, present=True) is live
    assert await write_status(bench.kube, live, STATUS) is live
    assert live["metadata"]["resourceVersion"] == bench.server.moe()["metadata"]["resourceVersion"]


async def test_a_conflict_that_repeats_asks_once_for_what_the_watch_has_not_told(bench: Bench) -> None:
    bench.change(generation=7)
    reads = []
    for _ in range(2):
        with pytest.raises(ConflictError):
            await write_status(bench.kube, await bench.read(), STATUS)
        reads.append(bench.server.gets.count("moedeployments"))
    # The fake reads its own object at each write.
    assert reads == [1, 3]
    await write_status(bench.kube, await bench.read(), STATUS)
    assert bench.server.moe()["status"]["readyShards"] == 1
    assert (await bench.read())["metadata"]["generation"] == 7


async def test_an_object_that_went_unnoticed_is_gone_at_the_first_write(bench: Bench) -> None:
    live = await bench.read()
    bench.server.objects.clear()
    with pytest.raises(NotFoundError):
        await write_status(bench.kube, live, STATUS)
    with pytest.raises(NotFoundError):
        await bench.read()


async def test_taking_the_last_finalizer_off_lets_it_go(bench: Bench) -> None:
    bench.store.put(bench.change(finalizers=["moe-operator.io/ray-cleanup"], deletionTimestamp="2026-01-01T00:00:00Z"))
    await set_cleanup_finalizer(bench.kube, await bench.read(), present=False)
    with pytest.raises(NotFoundError):
        await bench.read()
