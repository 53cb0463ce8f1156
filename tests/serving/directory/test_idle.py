"""An idle directory: few calls, no decisions; and what changes, also by time alone, is noticed at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import numpy as np
import pytest
from scene import EXPERTS, FACTS, LAYERS, MODEL, FakeShard, Scene

from moe_contract.applications import DirectoryConfig, ShardRef
from moe_placement import balanced_placement
from moe_placement.encoding import encode_placement
from moe_serving.changes import Changes
from moe_serving.directory import directory as loop
from moe_serving.directory import leases, monitor
from moe_serving.directory.directory import Directory
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.directory.messages import AttentionStatus, SyncRequest
from moe_serving.directory.monitor import LOST_SECONDS
from moe_serving.directory.statistics import StatisticsStore
from moe_serving.experts.description import ShardDescription
from moe_serving.routing.table import TableVersion
from moe_serving.routing.window import Window

HELD = 60.0
"""Longer than any test here waits: what comes earlier did not wait for the end of a hold."""


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every situation that actions were looked for in."""
    made: list[object] = []
    next_actions = loop.next_actions

    def counted(now: loop.Situation) -> object:
        made.append(now)
        return next_actions(now)

    monkeypatch.setattr(loop, "next_actions", counted)
    return made


async def test_nothing_is_judged_while_nothing_changes(scene: Scene, judged: list[object]) -> None:
    await scene.turns(100)
    assert judged == []
    scene.directory.report()
    assert scene.directory.report().progress.settled


async def test_all_that_actions_depend_on_has_them_looked_for_anew(scene: Scene, judged: list[object]) -> None:
    async def looks() -> int:
        judged.clear()
        await scene.turns(5)
        return len(judged)

    scene.directory.configure(scene.config)
    assert await looks()
    scene.shards[0].capacity += 1
    assert await looks()
    scene.shards[0].start()
    assert await looks()
    assert await looks() == 0
    fault = scene.shards[0].fault = TimeoutError()
    scene.now += LOST_SECONDS
    assert await looks(), "it is Lost by time alone"
    scene.shards[0].fault = None
    assert await looks(), f"it is back after {fault!r}"
    judged.clear()
    scene.now += LEASE_SECONDS
    await scene.turns(2, sync=False)
    assert judged, "the replica's lease has run out"
    assert await looks(), "it is back"
    scene.version = TableVersion(scene.version.epoch, "another directory's")
    assert await looks(), "a replica has a table of another directory"


async def test_orders_that_were_not_taken_are_given_again(scene: Scene) -> None:
    shard, assign = scene.shards[2], scene.shards[2].assign

    async def refuse(*orders: object) -> None:
        raise ConnectionError("not now")

    shard.assign = refuse  # type: ignore[method-assign]  # for some turns
    scene.place(balanced_placement(LAYERS, EXPERTS, [0, 2, 2], 1))
    await scene.turns(3)
    assert not shard.held.any()
    shard.assign = assign  # type: ignore[method-assign]  # from now on
    await scene.turns(5)
    assert scene.directory.report().progress.settled


class HoldingShard(FakeShard):
    """Holds its answer until its ``changes`` go on."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.changes = Changes()
        self.calls = 0
        self.frozen = False

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        self.calls += 1
        now = await super().describe(known, hold)
        if self.frozen:
            await asyncio.sleep(HELD)
        if now.version == known:
            await self.changes.beyond(self.changes.count, hold)
        return await super().describe(known, hold)

    async def assign(self, *orders: object) -> None:
        await super().assign(*orders)  # type: ignore[arg-type]  # passed on
        self.changes.note()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but a hold takes long."""
    monkeypatch.setattr(loop, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(monitor, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(monitor, "HOLD_SECONDS", HELD)
    monkeypatch.setattr(leases, "LEASE_SECONDS", 0.2)


@asynccontextmanager
async def running(shards: list[HoldingShard]) -> AsyncIterator[Directory]:
    """A directory in its loop, with all experts on shard 0."""
    directory = Directory(MODEL, lambda model: FACTS, lambda ref: shards[ref.index])
    task = asyncio.create_task(directory.run())
    directory.configure(config(1, [EXPERTS, *[0 for _ in shards[1:]]]))
    await until(lambda: directory.report().progress.settled, "the first placement")
    yield directory
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def config(revision: int, slots: list[int]) -> object:
    return DirectoryConfig(
        term=1,
        revision=revision,
        shards=tuple(ShardRef(index=index, application=f"s{index}") for index in range(len(slots))),
        placement=encode_placement(balanced_placement(LAYERS, EXPERTS, slots, 1)),
    ).model_dump(mode="json")


async def until(condition: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + HELD / 3
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"waited {HELD / 3:g} s for {what}"
        await asyncio.sleep(0.005)


def request(version: TableVersion, hold: float, *windows: Window) -> SyncRequest:
    return SyncRequest("a", version, 1, windows, AttentionStatus(ready=True), hold)


@pytest.mark.usefixtures("quick")
async def test_an_idle_shard_is_asked_once_and_changes_travel_at_once(judged: list[object]) -> None:
    shards = [HoldingShard(0), HoldingShard(1)]
    async with running(shards) as directory:
        await asyncio.sleep(0.3)  # the time after which the predecessor's replicas count no more passes
        calls = [shard.calls for shard in shards]
        judged.clear()
        await asyncio.sleep(0.5)
        assert [shard.calls for shard in shards] == calls
        assert judged == []
        directory.configure(config(2, [0, EXPERTS]))
        await until(lambda: directory.report().progress.settled, "the second placement")
        assert shards[1].held.all()
        assert not shards[0].held.any()
        shards[1].held = np.zeros_like(shards[1].held)
        shards[1].changes.note()
        await until(lambda: bool(shards[1].held.all()), "what a shard lost to be loaded again")


@pytest.mark.usefixtures("quick")
async def test_a_shard_that_stands_still_is_lost_without_another_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "HOLD_SECONDS", 0.05)
    monkeypatch.setattr(monitor, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(monitor, "LOST_SECONDS", 0.5)
    shards = [HoldingShard(0)]
    async with running(shards) as directory:
        shards[0].frozen = True
        await until(lambda: directory._observed is not None and not directory._observed[1].live[0], "it to be lost")
        assert directory.report().shards[0].phase == "Lost"
        shards[0].frozen = False
        await until(lambda: directory.report().progress.settled, "its return")


@pytest.mark.usefixtures("quick")
async def test_the_answer_to_a_replica_is_held_until_there_is_a_table() -> None:
    shards = [HoldingShard(0), HoldingShard(1)]
    async with running(shards) as directory:
        first = await directory.sync(request(TableVersion(0, ""), HELD))
        assert first.table is not None, "news is not held"
        version = first.table.version
        held = asyncio.create_task(directory.sync(request(version, HELD)))
        window = Window.of(first.table)
        window.rows[0] = 3
        assert (await directory.sync(request(version, 0.0, window))).table is None
        await asyncio.sleep(0.1)
        assert not held.done()
        assert [replica.replica for replica in directory.report().attention] == ["a"]
        assert directory.report().traffic.layer_rows == 3
        directory.configure(config(2, [0, EXPERTS]))
        async with asyncio.timeout(HELD / 3):
            news = await held
        assert news.table is not None
        assert news.table.version.epoch > version.epoch
        assert (await directory.sync(request(news.table.version, 0.05))).table is None, "a hold ends"


@pytest.mark.usefixtures("quick")
async def test_statistics_that_cannot_be_inherited_do_not_end_the_directory(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(store: StatisticsStore) -> None:
        raise ValueError("damaged")

    monkeypatch.setattr(StatisticsStore, "inherit", fail)
    monkeypatch.setattr(loop, "LEGACY_SECONDS", 0.01)
    async with running([HoldingShard(0), HoldingShard(1)]) as directory:
        await until(lambda: caplog.text.count("is not inherited") > 1, "a look at what is left")
        assert (await directory.sync(request(TableVersion(0, ""), HELD))).table is not None


async def test_a_replica_that_waits_for_the_model_hears_of_it() -> None:
    directory = Directory(MODEL, lambda model: FACTS, FakeShard)
    held = asyncio.create_task(directory.sync(request(TableVersion(0, ""), HELD)))
    await asyncio.sleep(0.05)
    assert not held.done()
    await directory.inspect_model()
    async with asyncio.timeout(HELD / 3):
        assert (await held).digest == FACTS.digest
