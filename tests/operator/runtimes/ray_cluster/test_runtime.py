"""The port of one deployment on a Ray cluster: what each call says when something is in the way."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from bench import Bench, broken
from data_plane import DataPlane

from moe_contract.rendering import Desired
from moe_operator.api import MoEDeployment, Reason
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.port import Effect, Runtime, RuntimeState
from moe_operator.runtimes.ray_cluster.serve_rest import cluster


class Opened:
    """The runtime of ``team/tiny``, and what is desired of it."""

    def __init__(self, bench: Bench, **spec: Any) -> None:
        bench.apply(**spec)
        self.bench = bench
        self.moe = MoEDeployment.parse(bench.kube.moe())
        self.runtime: Runtime = bench.runtimes.open(self.moe)

    async def observe(self) -> RuntimeState:
        return await self.runtime.observe(self.moe)

    async def desired(self) -> Desired:
        plane = DataPlane(self.moe)
        plane.more = {"keys": await self.bench.reconciler.observer.secrets.key_hashes(self.moe)}
        desired = plane.decide().desired
        assert desired is not None
        return desired

    async def apply(self, desired: Desired | None, basis: RuntimeState | None = None) -> Effect:
        outcome = await self.runtime.apply(self.moe, desired, basis or await self.observe())
        # What is to be told is said.
        assert (outcome.problem is not None) == (outcome.effect in (Effect.IN_THE_WAY, Effect.REFUSED, Effect.STALE))
        self.problem = outcome.problem
        return outcome.effect


@pytest.fixture
async def bench(http: HttpClient, fake_ray: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    for name in ("FRESH_SECONDS", "ABSENT_SECONDS", "GATHER_SECONDS"):
        monkeypatch.setattr(cluster, name, 0.0)
    yield Bench(http, fake_ray)


async def test_what_was_applied_is_observed(bench: Bench) -> None:
    opened = Opened(bench)
    state = await opened.observe()
    assert state.is_known
    assert (state.nothing_is_left, state.applications, state.told, state.report) == (True, {}, {}, None)
    desired = await opened.desired()
    assert await opened.apply(desired, state) is Effect.WRITTEN
    state = await opened.observe()
    assert state.answers is not None
    assert state.answers.message == f"Ray answers at {bench.ray.url}"
    assert state.told[desired.core].directory == desired.directory
    assert state.report is not None
    assert await opened.apply(desired, state) is Effect.EQUAL


async def test_what_cannot_be_read(bench: Bench) -> None:
    opened = Opened(bench)
    bench.ray.override = broken
    state = await opened.observe()
    assert (state.is_known, state.unasked, state.report_problem) == (False, None, None)
    assert state.unreachable is not None
    assert state.unreachable.reason == Reason.RAY_UNREACHABLE
    with pytest.raises(TypeError, match="not known what runs"):
        await opened.apply(None, state)
    opened = Opened(bench, runtime={"tokenSecretRef": {"name": "none"}})
    state = await opened.observe()
    assert (state.is_known, state.unreachable) == (False, None)
    assert state.unasked is not None
    assert state.unasked.reason == Reason.SECRET_MISSING


async def test_what_else_runs_by_then(bench: Bench) -> None:
    opened = Opened(bench)
    basis, desired = await opened.observe(), await opened.desired()
    bench.ray.controller = "controller-2"
    assert await opened.apply(desired, basis) is Effect.STALE
    assert bench.ray.puts == []
    assert await opened.apply(await opened.desired()) is Effect.WRITTEN


async def test_a_write_that_is_refused(bench: Bench) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=400) if request.method == "PUT" else await bench.ray.answer(request)

    opened = Opened(bench)
    bench.ray.override = refuse
    assert await opened.apply(await opened.desired()) is Effect.REFUSED
    assert opened.problem is not None
    assert opened.problem.reason == Reason.DEPLOY_FAILED


async def test_keys_that_are_others_by_the_time_of_the_write(bench: Bench) -> None:
    bench.kube.secret("keys", "api-keys", mine="k" * 40)
    opened = Opened(bench, serving={"apiKeysSecretRef": {"name": "keys"}})
    desired = await opened.desired()
    bench.kube.secret("keys", "api-keys", mine="n" * 40)
    bench.now += 5.0
    assert await opened.apply(desired) is Effect.STALE
    bench.kube.secret("keys", None, mine="n" * 40)
    bench.now += 5.0
    assert await opened.apply(desired) is Effect.REFUSED
    # What removes everything has no keys in it.
    assert await opened.apply(None) is Effect.EQUAL
    assert bench.ray.puts == []


async def test_a_route_that_somebody_has(bench: Bench) -> None:
    bench.ray.configs["shop"] = {**bench.ray.shop, "route_prefix": "/team/tiny"}
    opened = Opened(bench)
    assert await opened.apply(await opened.desired()) is Effect.IN_THE_WAY
    assert opened.problem is not None
    assert opened.problem.reason == Reason.ROUTE_PREFIX_TAKEN
    assert bench.ray.puts == []


async def test_what_does_not_stay_is_held_back_and_told(bench: Bench) -> None:
    opened = Opened(bench)
    desired = await opened.desired()
    effects = []
    for _ in range(5):
        effects.append(await opened.apply(desired))
        bench.ray.configs.clear()
    assert effects == [Effect.WRITTEN] * 3 + [Effect.HELD_BACK] * 2
    state = await opened.observe()
    assert state.foreign_writer is not None
    assert "again and again" in state.foreign_writer.message
    bench.now += 3.0
    assert await opened.apply(desired) is Effect.WRITTEN


async def test_a_removal_says_what_it_waits_for(bench: Bench) -> None:
    opened = Opened(bench)
    assert await opened.apply(await opened.desired()) is Effect.WRITTEN
    bench.ray.deleting_reads = 4
    waiting = [await opened.runtime.remove(opened.moe) for _ in range(3)]
    assert [each and each.reason for each in waiting] == [Reason.DELETING, Reason.DELETING, None]
    assert waiting[0] is not None
    assert waiting[0].message.startswith("Serve is stopping moe.team.tiny.")
    bench.ray.override = broken
    failed = await opened.runtime.remove(opened.moe)
    assert failed is not None
    assert failed.reason == Reason.RAY_UNREACHABLE


async def test_a_ray_without_serve_is_believed_after_some_seconds(bench: Bench) -> None:
    opened = Opened(bench)
    bench.ray.controller = ""
    waiting = []
    for _ in range(3):
        waiting.append(await opened.runtime.remove(opened.moe))
        bench.now += 3.0
    assert [each and each.reason for each in waiting] == [Reason.DELETING, Reason.DELETING, None]
    assert (await opened.observe()).nothing_is_left
