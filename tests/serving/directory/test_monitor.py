"""What a shard is told anew, beside what it has."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scene import FACTS, FakeShard

from moe_serving.directory.monitor import DOUBT_SECONDS, ShardMonitor
from moe_serving.experts.description import ExpertKey, Loading, LoadOrder, ShardDescription

A, B, C = (0, 1), (0, 2), (1, 3)


class Shard(FakeShard):
    """Loads nothing."""

    def __init__(self, loading: tuple[ExpertKey, ...], begun: bool) -> None:
        super().__init__(0)
        self.loading = Loading(loading, begun)

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        return replace(await super().describe(known, hold), loading=self.loading)

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        pass


async def watched(loading: tuple[ExpertKey, ...], begun: bool) -> ShardMonitor:
    monitor = ShardMonitor(0, Shard(loading, begun), lambda: 0.0)
    await monitor.poll()
    return monitor


@pytest.mark.parametrize(
    ("begun", "wanted", "is_news"),
    [
        (True, (A, B), False),
        # What is on its way goes on: the rest is in the order that is wanted.
        (True, (B, A), False),
        (True, (B, C, A), True),
        (True, (B,), True),
        (True, (), True),
        (False, (A, B), False),
        (False, (B, A), True),
    ],
)
async def test_orders_that_change_nothing_are_no_news(
    begun: bool, wanted: tuple[ExpertKey, ...], is_news: bool
) -> None:
    monitor = await watched((A, B), begun)
    assert monitor.is_news(wanted, ()) is is_news
    assert monitor.is_news(wanted, (C,))


async def test_orders_just_given_are_no_news() -> None:
    monitor = await watched((A,), begun=True)
    urgent = [LoadOrder(*B, urgent=True), LoadOrder(*A, (None,))]
    assert await monitor.assign(urgent, (), np.zeros((2, 4, 1), dtype=bool))
    assert (monitor.loading.queue, monitor.loading.on_its_way) == ((A, B), A)
    assert not monitor.is_news((B, A), ())


@pytest.mark.parametrize("digest", [None, "sha256:other"])
async def test_a_shard_with_another_checkpoint_is_asked_to_look_again_and_not_all_the_time(digest: str | None) -> None:
    times, shard = [1000.0], FakeShard(0)
    monitor = ShardMonitor(0, shard, lambda: times[-1])
    await monitor.doubt(FACTS.digest)
    await monitor.poll()
    await monitor.doubt(FACTS.digest)
    assert shard.doubted == [], "it has the right one"
    shard.digest = digest  # type: ignore[assignment]  # None before it has opened any
    for now in (1001.0, 1002.0, 1000.5 + DOUBT_SECONDS, 1001.0 + DOUBT_SECONDS):
        times.append(now)
        await monitor.poll()
        await monitor.doubt(FACTS.digest)
    assert shard.doubted == [FACTS.digest] * (0 if digest is None else 2)


async def test_a_shard_of_an_earlier_release_that_knows_no_such_call_is_watched_all_the_same() -> None:
    class Former(FakeShard):
        async def look_again(self, incarnation: str, digest: str) -> None:
            raise RuntimeError("there is no look_again")

    shard = Former(0)
    shard.digest = "sha256:other"
    monitor = ShardMonitor(0, shard, lambda: 1000.0)
    await monitor.poll()
    await monitor.doubt(FACTS.digest)
    assert monitor.phase == "Ready"
    assert "the shard looks again every 30 s" in (monitor.problem(FACTS) or "")
