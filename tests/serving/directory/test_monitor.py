"""What a shard is told anew, beside what it has."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scene import FakeShard

from moe_serving.directory.monitor import ShardMonitor
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
