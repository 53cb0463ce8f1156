"""Statistics survive the death of any one process: replicas and directory hold them for each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from scene import EXPERTS, FACTS, LAYERS

from moe_placement.statistics import RoutingStatistics, decode_statistics, encode_statistics
from moe_serving.directory import statistics as module
from moe_serving.directory.messages import StatisticsReport
from moe_serving.directory.statistics import ASK_SECONDS, GONE_SECONDS, StatisticsStore
from moe_serving.routing.exchange import Legacy, StatisticsExchange, StatisticsKnown, StatisticsTold
from moe_serving.routing.gatherer import Gathered, Gatherer

TOP_K = 2


@dataclass
class Replica:
    """Gathers rows and reports, as an attention replica does."""

    name: str
    world: World
    digest: str = FACTS.digest
    rows: int = 0
    exchange: StatisticsExchange = field(default_factory=StatisticsExchange)

    def __post_init__(self) -> None:
        self.gatherer = Gatherer(LAYERS, EXPERTS, lambda: self.world.now)

    def route(self, rows: int) -> None:
        random = np.random.default_rng(self.rows)
        ids = np.argsort(random.random((rows, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype(np.int16)
        self.gatherer.add((ids, np.ones(ids.shape, dtype=np.float32)))
        self.rows += rows
        self.exchange.keep(self.gatherer.take())

    def report(self, heard: bool = True) -> StatisticsTold | None:
        """What is handed over because of a report, if anything. ``heard``: the answer arrives."""
        store = self.world.store
        self.exchange.hear(store.known(self.name, self.digest, self.exchange.legacy_version))
        if not self.exchange.is_due:
            return None
        told = self.exchange.tell()
        answer = store.take(StatisticsReport(self.name, self.digest, told))
        if heard:
            self.exchange.hear(answer.known, answer.legacy)
        return told


class World:
    def __init__(self) -> None:
        self.now = 1e9
        self.store = StatisticsStore(FACTS, lambda: self.now)

    def restart_directory(self) -> None:
        self.store = StatisticsStore(FACTS, lambda: self.now)

    async def merged(self) -> RoutingStatistics | None:
        packed = await self.store.merged()
        return decode_statistics(packed) if packed is not None else None

    async def tokens(self) -> float:
        merged = await self.merged()
        return merged.tokens if merged is not None else 0.0


@pytest.fixture
def world() -> World:
    return World()


async def test_all_replicas_together_each_window_once(world: World) -> None:
    assert await world.merged() is None
    one, two = Replica("one", world), Replica("two", world)
    one.route(10)
    one.report(heard=False)
    assert one.report() is None, "the answer to the next report says that it has arrived"
    two.route(5)
    two.report()
    one.route(3)
    one.report()
    merged = await world.merged()
    assert merged is not None
    assert merged.tokens == 18
    assert merged.load.sum() == 18 * LAYERS * TOP_K
    assert len(merged.sample) == 18


async def test_a_directory_that_restarts_is_told_all_again(world: World) -> None:
    one, two = Replica("one", world), Replica("two", world)
    one.route(10)
    two.route(5)
    one.report()
    two.report()
    world.restart_directory()
    for _ in range(2):
        one.report()
        two.report()
    assert await world.tokens() == 15


async def test_what_a_dead_replica_told_outlives_it_and_the_directory(world: World) -> None:
    dead, lives, late = (Replica(name, world) for name in ("dead", "lives", "late"))
    dead.route(10)
    dead.report()
    lives.route(5)
    for _ in range(3):
        world.now += GONE_SECONDS / 2
        lives.report()
        await world.store.inherit()
        assert await world.tokens() == pytest.approx(15, rel=0.1)
    lives.report()
    world.restart_directory()
    for _ in range(2):
        lives.report()
        late.report()
    assert await world.tokens() == pytest.approx(15, rel=0.1)
    late.report()
    assert late.exchange.legacy_version == 1, "one that comes later keeps a copy, too"
    await world.store.inherit()
    assert await world.tokens() == pytest.approx(15, rel=0.1), "it is inherited once"


async def test_those_of_a_former_cluster_count_as_what_a_dead_replica_left(world: World) -> None:
    former = World()
    before = Replica("before", former)
    before.route(10)
    before.report()
    packed = await former.store.merged()
    assert packed is not None
    for _ in range(2):  # whoever hands them over may not know that they have arrived
        assert await world.store.adopt(packed) is None
    assert await world.tokens() == 10
    lives = Replica("lives", world)
    lives.route(5)
    for _ in range(2):
        world.now += GONE_SECONDS / 2
        lives.report()
        await world.store.inherit()
    lives.report()
    assert lives.exchange.legacy_version == 1, "they outlive this directory, too"
    world.restart_directory()
    for _ in range(2):
        lives.report()
    assert await world.tokens() == pytest.approx(15, rel=0.1)


def packed_of(rows: int) -> bytes:
    """What a former cluster had merged."""
    ids = np.argsort(np.random.default_rng(rows).random((rows, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K]
    statistics = RoutingStatistics.of_ids(ids.astype(np.int16), EXPERTS, windows=1)
    return encode_statistics(statistics)


@pytest.mark.parametrize(
    ("told", "tokens"),
    [
        # what is told when, as (seconds, rows, of which cluster), and how many tokens are known in the end
        ([(0, 10, "a"), (0, 10, "a")], 10),
        ([(0, 10, "a"), (0, 12, "a")], 12),  # it went on: all of it is told anew
        ([(0, 10, "a"), (GONE_SECONDS, 10, "a")], 10),
        ([(0, 10, "a"), (GONE_SECONDS, 12, "a")], 10),
        ([(0, 10, ""), (GONE_SECONDS, 10, "")], 10),
        ([(0, 10, ""), (GONE_SECONDS, 12, "")], 22),  # by nothing is it known that these are the same
        ([(0, 10, ""), (0, 12, "")], 12),  # it may be the same: only the last is kept until it is part of the legacy
        ([(0, 10, "a"), (0, 5, "b")], 15),
        ([(0, 10, "a"), (GONE_SECONDS, 5, "b"), (2 * GONE_SECONDS, 10, "a"), (3 * GONE_SECONDS, 5, "b")], 15),
    ],
)
async def test_those_of_a_former_cluster_count_once_however_often_and_late_they_are_told(
    world: World, told: list[tuple[float, int, str]], tokens: int
) -> None:
    begun = world.now
    for seconds, rows, source in told:
        world.now = begun + seconds
        await world.store.inherit()
        assert await world.store.adopt(packed_of(rows), source) is None
    assert await world.tokens() == pytest.approx(tokens, rel=0.2)
    world.now += GONE_SECONDS
    await world.store.inherit()
    assert await world.tokens() == pytest.approx(tokens, rel=0.2)


async def test_a_directory_that_restarts_does_not_take_those_of_a_former_cluster_again(world: World) -> None:
    keeps, packed = Replica("keeps", world), packed_of(10)
    assert await world.store.adopt(packed, "a") is None
    for _ in range(2):
        world.now += GONE_SECONDS / 2
        keeps.report()
        await world.store.inherit()
    keeps.report()
    for told_first in (True, False):
        world.restart_directory()
        if told_first:  # before the replica that knows has reported
            assert await world.store.adopt(packed, "a") is None
        for _ in range(2):
            keeps.report()
        assert await world.store.adopt(packed, "a") is None
        assert await world.tokens() == pytest.approx(10, rel=0.2)
        world.now += GONE_SECONDS
        keeps.report()
        await world.store.inherit()
        assert await world.tokens() == pytest.approx(10, rel=0.2)


async def test_of_few_former_clusters_statistics_are_kept_beside_the_legacy(world: World) -> None:
    told_by = [await world.store.adopt(packed_of(10 + at), name) for at, name in enumerate(("a", "b", "c", ""))]
    refused = "statistics of others are being merged: tell again in a minute"
    assert told_by == [None, None, refused, refused]
    together = await asyncio.gather(*(world.store.adopt(packed_of(10), name) for name in ("a", "d", "b")))
    assert together == [None, refused, None], "what is kept is told anew"
    assert await world.tokens() == 20
    world.now += GONE_SECONDS
    await world.store.inherit()
    assert await world.store.adopt(packed_of(5), "c") is None
    assert await world.tokens() == pytest.approx(25, rel=0.2)


async def test_of_those_that_come_at_once_no_more_are_kept(world: World) -> None:
    told_by = await asyncio.gather(*(world.store.adopt(packed_of(10), name) for name in "abcd"))
    assert (told_by.count(None), await world.tokens()) == (2, 20)


async def test_what_is_part_of_the_legacy_is_not_looked_at_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await world.store.adopt(packed_of(10), "a") is None
    world.now += GONE_SECONDS
    await world.store.inherit()
    monkeypatch.setattr(module, "decode_statistics", None)
    assert await world.store.adopt(packed_of(12), "a") is None


async def test_a_legacy_that_is_handed_over_during_a_merge_is_kept(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeps, dead = Replica("keeps", world), Replica("dead", world)
    assert await world.store.adopt(packed_of(10), "a") is None
    world.now += GONE_SECONDS
    await world.store.inherit()
    keeps.report()
    assert keeps.exchange.legacy_version == 1
    world.restart_directory()
    dead.route(5)
    dead.report()
    world.now += GONE_SECONDS
    merge = module._merge

    def merged_meanwhile(*arguments: Any) -> bytes | None:
        monkeypatch.setattr(module, "_merge", merge)
        keeps.report()
        return merge(*arguments)

    monkeypatch.setattr(module, "_merge", merged_meanwhile)
    for _ in range(2):
        await world.store.inherit()
    assert await world.tokens() == pytest.approx(15, rel=0.2)


@asynccontextmanager
async def merging(world: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """What is done meanwhile comes between the beginning and the end of a merge for the legacy."""
    merge, done = module._merge, threading.Event()
    with monkeypatch.context() as once:
        once.setattr(module, "_merge", lambda *arguments: done.wait(60) and merge(*arguments))
        inheriting = asyncio.create_task(world.store.inherit())
        await asyncio.sleep(0)
        try:
            yield
        finally:
            done.set()
            await inheriting


async def test_during_a_merge_one_without_a_name_may_take_the_place_of_what_is_merged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await world.store.adopt(packed_of(10)) is None
    world.now += GONE_SECONDS
    async with merging(world, monkeypatch):
        assert await world.store.adopt(packed_of(5)) is None
    for _ in range(2):
        world.now += GONE_SECONDS
        await world.store.inherit()
        assert await world.tokens() == pytest.approx(5, rel=0.2)


@pytest.mark.parametrize("more", [0, 3])
async def test_during_a_merge_one_that_was_taken_for_gone_may_report_and_counts_once(
    world: World, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    dead, frozen = Replica("dead", world), Replica("frozen", world)
    for replica, rows in ((dead, 5), (frozen, 10)):
        replica.route(rows)
        replica.report()
    world.now += GONE_SECONDS
    async with merging(world, monkeypatch):
        if more:
            frozen.route(more)
        frozen.report()
    assert await world.tokens() == pytest.approx(15 + more, rel=0.2)
    await world.store.inherit()
    frozen.report()
    assert await world.tokens() == pytest.approx(15 + more, rel=0.2), "what the other one left is part of the legacy"
    assert world.store.known("another", FACTS.digest, 0) == StatisticsKnown(FACTS.digest, 0, 1, wants_legacy=False)


ONE_LAYER_MORE = RoutingStatistics.of_ids(np.zeros((3, LAYERS + 1, 1), dtype=np.int16), EXPERTS, windows=1)


@pytest.mark.parametrize(
    ("packed", "refused"),
    [
        (b"", "these are no statistics: "),
        (b"nor these", "these are no statistics: "),
        (encode_statistics(ONE_LAYER_MORE), "these are statistics of another model: "),
    ],
)
async def test_what_is_no_use_is_not_taken_from_a_former_cluster(world: World, packed: bytes, refused: str) -> None:
    assert (await world.store.adopt(packed) or "").startswith(refused)
    assert await world.merged() is None


async def test_one_that_was_silent_for_a_while_counts_once(world: World) -> None:
    frozen = Replica("frozen", world)
    frozen.route(10)
    frozen.report()
    world.now += GONE_SECONDS - 1
    await world.store.inherit()
    frozen.route(1)
    frozen.report()
    world.now += 2
    await world.store.inherit()
    assert await world.tokens() == pytest.approx(11, rel=0.1)


async def test_the_older_weighs_less_until_all_is_old(world: World) -> None:
    idle, busy = Replica("idle", world), Replica("busy", world)
    idle.route(8)
    idle.report()
    world.now += idle.gatherer.half_life
    assert await world.tokens() == 8, "nothing came since"
    busy.route(8)
    busy.report()
    idle.report()
    assert await world.tokens() == pytest.approx(12)


async def test_what_is_nothing_beside_the_newest_leaves_the_sample(world: World) -> None:
    idle, busy = Replica("idle", world), Replica("busy", world)
    idle.route(8)
    idle.report()
    world.now += 200 * idle.gatherer.half_life
    busy.route(5)
    busy.report()
    merged = await world.merged()
    assert merged is not None
    assert (merged.tokens, len(merged.sample)) == (5, 5)


async def test_all_fade_by_the_half_life_of_the_newest(world: World) -> None:
    """While a new one is on its way to the replicas; keys that moved differently would not be known again."""
    slow, quick = Replica("slow", world), Replica("quick", world)
    quick.gatherer.configure(10.0)
    slow.route(8)
    slow.report()
    world.now += quick.gatherer.half_life
    quick.route(8)
    quick.report()
    assert quick.gatherer.half_life < slow.gatherer.half_life
    assert await world.tokens() == pytest.approx(12)


async def test_a_clock_ahead_makes_nobody_old(world: World) -> None:
    ahead, other = Replica("ahead", world), Replica("other", world)
    other.route(8)
    other.report()
    world.now += 1e6
    ahead.route(8)
    world.now -= 1e6
    ahead.report()
    assert await world.tokens() == pytest.approx(16)


async def test_what_is_of_another_model_or_damaged_is_left_out(world: World, caplog) -> None:
    mine, strange = Replica("mine", world), Replica("strange", world, digest="sha256:other")
    mine.route(4)
    strange.route(4)
    mine.report()
    strange.report()
    assert await world.tokens() == 4
    damaged = Replica("damaged", world)
    damaged.exchange.keep(Gathered(1, world.now, b"no statistics", 900.0))
    damaged.report()
    assert await world.tokens() == 4
    assert "left out" in caplog.text


async def test_one_replica_at_a_time_is_asked_for_the_legacy(world: World) -> None:
    dead, *others = (Replica(name, world) for name in ("dead", "one", "two", "three"))
    dead.route(10)
    dead.report()
    world.now += GONE_SECONDS
    await world.store.inherit()
    for replica in others:
        assert replica.report() is not None
        assert replica.exchange.legacy_version == 1
    world.restart_directory()
    known = [world.store.known(replica.name, replica.digest, 1) for replica in (others[0], *others)]
    assert [each is not None and each.wants_legacy for each in known] == [True, True, False, False]
    world.now += ASK_SECONDS
    told = [replica.report() for replica in (others[1], others[0], others[2], others[1])]
    assert [each is not None and each.legacy is not None for each in told] == [True, False, False, False]
    assert await world.tokens() == pytest.approx(10)


async def test_a_legacy_of_another_model_is_not_kept(world: World) -> None:
    mine = Replica("mine", world)
    mine.exchange.hear(StatisticsKnown("other", 0, 3), Legacy("other", Gathered(3, 0.0, b"", 900.0)))
    assert mine.exchange.legacy_version == 3
    assert mine.report() is None
    assert mine.exchange.legacy_version == 0


async def test_what_does_not_fit_the_others_is_left_out(world: World, caplog: pytest.LogCaptureFixture) -> None:
    mine, other = Replica("mine", world), Replica("other", world)
    mine.route(4)
    mine.report()
    ids = np.zeros((3, LAYERS, 1), dtype=np.int16)
    packed = encode_statistics(RoutingStatistics.of_ids(ids, EXPERTS, windows=1))
    other.exchange.keep(Gathered(1, world.now, packed, 900.0))
    other.report()
    assert await world.tokens() == 4
    assert "do not fit the others" in caplog.text
    world.now += GONE_SECONDS
    await world.store.inherit()
    assert await world.tokens() == 4


async def test_they_are_merged_again_only_when_there_is_news(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    merges = []
    merge = module._merge
    monkeypatch.setattr(module, "_merge", lambda *arguments: merges.append(1) or merge(*arguments))
    one = Replica("one", world)
    one.route(4)
    one.report()
    assert await world.store.merged() == await world.store.merged()
    assert merges == [1]
