"""Shards that take their time with what they are told to load: what crosses a link, and what is told anew meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scene import EXPERTS, LAYERS, Scene
from scene import FakeShard as _FakeShard

from moe_placement import Placement
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.experts.description import CHECKPOINT, ExpertKey, Loading, LoadOrder, ShardDescription, Source


class SlowShard(_FakeShard):
    """Brings one expert at a time: what is begun goes on until it is ended, or wanted no more.

    Attributes:
        queue: what it still has to load.
        current: what is on its way, and from where.
        told: how often it was given orders.
    """

    def __init__(self, index: int, node: str) -> None:
        super().__init__(index, node)
        self.queue: dict[ExpertKey, LoadOrder] = {}
        self.current: tuple[ExpertKey, Source] | None = None
        self.problem: str | None = None
        self.told = 0

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        said = await super().describe(known, hold)
        first = [self.current[0]] if self.current else []
        queue = (*first, *(key for key in self.queue if key not in first))
        loading = Loading(queue, begun=bool(self.current))
        version = f"{said.version} {loading} {self.current} {self.problem}"
        return replace(said, loading=loading, problem=self.problem, version=version)

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        self.told += 1
        await super().assign(incarnation, (), free)
        self.queue = {order.key: order for order in load}
        if self.current and self.current[0] not in self.queue:
            self.current = None

    def begin(self, others: Sequence[SlowShard]) -> bool:
        """Whether something new is on its way: the first of the queue, from the first source that has it."""
        if self.current or not self.queue:
            return False
        order = next(iter(self.queue.values()))
        holders = {f"/{other.incarnation}" for other in others if other.held[order.key]}
        sources = (s for s in order.sources if s is CHECKPOINT or s.unix_name in holders)
        self.current = order.key, next(sources)
        return True

    def end(self) -> None:
        if self.current:
            key, _ = self.current
            self.held[key] = True
            del self.queue[key]
            self.current = None


def arrange(rows: Sequence[Sequence[int]], shards: int) -> Placement:
    """The same in every layer: per shard the experts that it holds, as bits."""
    return Placement.of([[e for row in rows for e in row]] * LAYERS, [len(row) for row in rows], EXPERTS)


async def at_rest(nodes: str, rows: Sequence[Sequence[int]]) -> tuple[Scene, list[SlowShard]]:
    shards = [SlowShard(index, node) for index, node in enumerate(nodes)]
    scene = Scene(shards)
    await scene.directory.inspect_model()
    scene.place(arrange(rows, len(nodes)))
    scene.now += LEASE_SECONDS
    for _ in range(100):
        await scene.turns(1)
        for shard in shards:
            shard.begin(shards)
            shard.end()
        if scene.directory.report().progress.settled:
            return scene, shards
    raise AssertionError(f"not settled: {scene.directory.report()}")


async def migrate(nodes: str, goals: Sequence[Sequence[Sequence[int]]], data: st.DataObject) -> None:
    scene, shards = await at_rest(nodes, goals[0])
    for goal in goals[1:]:
        scene.place(arrange(goal, len(nodes)))
        for _ in range(400):
            await scene.turns(1)
            busy = [shard for shard in shards if shard.queue]
            for shard in data.draw(st.permutations(busy)) if busy else ():
                if not shard.begin(shards):
                    continue
                assert shard.current is not None
                key, source = shard.current
                if source is not CHECKPOINT and source.node != shard.node:
                    near = [other for other in shards if other.node == shard.node and other is not shard]
                    assert not any(other.held[key] for other in near), "it could have come from nearer"
                    assert not any(other.current and other.current[0] == key for other in near), "it is on its way here"
            if busy:
                data.draw(st.sampled_from(busy)).end()
            elif scene.directory.report().progress.settled:
                break
        assert scene.directory.report().progress.settled


@st.composite
def holdings(draw: st.DrawFn, shards: int) -> list[list[int]]:
    """Per shard some experts, so that each is somewhere."""
    rows = [draw(st.sets(st.integers(0, EXPERTS - 1))) for _ in range(shards)]
    for expert in range(EXPERTS):
        if not any(expert in row for row in rows):
            rows[draw(st.integers(0, shards - 1))].add(expert)
    return [sorted(row) for row in rows]


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.data())
def test_nothing_crosses_a_link_that_could_come_from_nearer(data: st.DataObject) -> None:
    """From any placement to any other, and to a third, with shards as fast or slow as they like."""
    nodes = data.draw(st.sampled_from(["aabb", "abbb", "aabbb", "abbcc"]))
    asyncio.run(migrate(nodes, [data.draw(holdings(len(nodes))) for _ in range(3)], data))


async def test_what_is_near_by_now_comes_from_there() -> None:
    """Shard 1 is in trouble with an expert that shard 2, of the same node, then has before it."""
    scene, shards = await at_rest("abb", [[0, 1, 2, 3], [], []])
    shards[1].problem = "it was tried in vain"
    scene.place(arrange([[0, 1, 2, 3], [0], [0]], 3))
    await scene.turns(2)
    assert not shards[1].queue, "shard 2 brings it"
    assert shards[2].begin(shards)
    await scene.turns(1)
    shards[1].problem, shards[2].problem = None, "it was tried in vain"
    await scene.turns(2)
    first = shards[1].queue[0, 0]
    assert [source.node for source in first.sources if source] == ["a"]
    assert shards[2].current, "its transfer is not undone"
    shards[2].end()
    await scene.turns(2)
    now = shards[1].queue[0, 0]
    assert [source.node for source in now.sources if source] == ["b", "a"]
    assert now.key == first.key


async def test_what_nobody_else_has_any_more_does_not_take_its_time() -> None:
    scene, shards = await at_rest("aab", [[0, 1, 2, 3], [], []])
    scene.place(arrange([[1, 2, 3], [0], []], 3))
    await scene.turns(2)
    key = next(iter(shards[1].queue))
    assert not shards[1].queue[key].urgent
    shards[0].start()
    await scene.turns(2)
    assert next(iter(shards[1].queue)) == key
    assert shards[1].queue[key].urgent


async def test_orders_are_not_told_again_while_nothing_changes() -> None:
    scene, shards = await at_rest("aabb", [[0, 1], [2, 3], [], []])
    scene.place(arrange([[0, 1], [2, 3], [0, 1, 2], [1, 2, 3]], 4))
    await scene.turns(3)
    told = [shard.told for shard in shards]
    shards[2].begin(shards)
    await scene.turns(20)
    assert [shard.told for shard in shards] == told


@pytest.mark.parametrize("restarted", [False, True])
async def test_other_counts_undo_nothing(restarted: bool) -> None:
    """Each copy that arrives has the others ranked anew; also a directory that has just begun lets go on what goes."""
    scene, shards = await at_rest("abcd", [[0, 1, 2, 3], [], [], []])
    for shard in shards:
        shard.capacity = LAYERS * EXPERTS // 2
    scene.place(arrange([[], [0, 1, 2, 3], [0, 1, 2, 3], []], 4), min_copies=2)
    await scene.turns(2)
    slow, fast = shards[1], shards[2]
    assert slow.begin(shards)
    begun = slow.current
    if restarted:
        await scene.restart_directory()
        scene.now += LEASE_SECONDS
    for _ in range(3):
        fast.begin(shards)
        fast.end()
        await scene.turns(2)
    assert slow.current == begun
