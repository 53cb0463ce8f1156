"""Looks beside the passes: by which clock, and for how long what is too heavy is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from gathered_traffic import GROUND, question

from moe_operator.api import RebalanceReason
from moe_operator.offload.errors import JobTooHeavyError
from moe_operator.rebalance.looks import ASIDE_CAP_SECONDS, ASIDE_SECONDS, Looks
from moe_operator.rebalance.proposal import Proposal, Question
from moe_operator.rebalance.recent import Mark

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
DONE_SECONDS = 60.0


@dataclass
class Worker:
    """In place of the worker process; ``too_heavy`` is every plan while it is set."""

    too_heavy: bool = False
    marks: tuple[Mark, ...] = ()
    first_layer: int | None = None
    asked: list[Question] = field(default_factory=list)

    async def run(self, owner: str, bounds: Any, job: Any, statistics: bytearray, asked: Question) -> Proposal:
        self.asked.append(asked)
        if self.too_heavy:
            raise JobTooHeavyError("took more than 45 s of processor time")
        return Proposal(False, RebalanceReason.GAIN_TOO_SMALL, "", self.marks, first_layer=self.first_layer)


@dataclass
class Bench:
    """Looks of one deployment; ``reading``: seconds that it takes to read statistics."""

    worker: Worker = field(default_factory=Worker)
    now: float = 5000.0
    reading: float = 0.0
    reads: int = 0

    def __post_init__(self) -> None:
        self.ended = asyncio.Event()
        self.looks = Looks(self.worker, lambda key: self.ended.set(), lambda: self.now)  # type: ignore[arg-type]

    def read(self) -> AbstractAsyncContextManager[bytearray]:
        @asynccontextmanager
        async def reading() -> AsyncIterator[bytearray]:
            self.reads += 1
            self.now += self.reading
            yield bytearray()

        return reading()

    async def look(self, asked: Question | None = None, every: timedelta = timedelta(minutes=5)) -> Proposal:
        self.ended.clear()
        self.looks.begin("team/tiny", "u", "ray", AT, every, asked or question(), self.read)
        async with asyncio.timeout(DONE_SECONDS):
            await self.ended.wait()
        look = self.looks.take("team/tiny", "u")
        assert look is not None
        return look.proposal


async def test_what_is_read_came_until_it_was_read() -> None:
    """It may wait for minutes; by the time of the pass that asked for it a short while had seen much."""
    bench = Bench(reading=150.0)
    await bench.look(question(now=-1.0))
    assert bench.worker.asked[0].now == 5150.0


async def test_a_look_begins_with_the_layer_that_the_last_one_had_no_time_for() -> None:
    bench = Bench()
    for left in (5, None, 2, None):
        bench.worker.first_layer = left
        await bench.look()
    await bench.look()
    assert [asked.first_layer for asked in bench.worker.asked] == [0, 5, 5, 2, 2]


async def test_a_look_after_another_interval_is_told_so_once() -> None:
    bench, minute = Bench(), timedelta(minutes=1)
    for every in (minute, minute, 2 * minute, 2 * minute, minute):
        await bench.look(every=every)
    assert [asked.other_interval for asked in bench.worker.asked] == [False, False, True, False, True]


async def test_a_look_that_fails_after_another_interval_leaves_nothing_to_compare_with() -> None:
    bench, minute = Bench(Worker(marks=(Mark(0.0, 1.0, np.ones((1, 2)), np.zeros(1)),))), timedelta(minutes=1)
    await bench.look(every=minute)
    bench.worker.too_heavy = True
    await bench.look(every=2 * minute)
    bench.worker.too_heavy, bench.now = False, bench.now + ASIDE_SECONDS
    await bench.look(every=2 * minute)
    assert [bool(asked.marks) for asked in bench.worker.asked] == [False, False, False]
    await bench.look(every=2 * minute)
    assert bench.worker.asked[-1].marks == bench.worker.marks


async def test_what_is_too_heavy_is_left_alone_for_longer_each_time() -> None:
    bench = Bench(Worker(too_heavy=True))
    for _ in range(12):
        found = await bench.look()
        assert found.reason is RebalanceReason.PLANNING_TOO_HEAVY
        assert found.message == "planning took more than 45 s of processor time; it is tried again after a while"
        bench.now += ASIDE_SECONDS / 2
    assert (len(bench.worker.asked), bench.reads) == (3, 3)
    # Others do not wait for that one, nor it longer than for an hour.
    bench.worker.too_heavy = False
    bench.now += ASIDE_CAP_SECONDS
    assert (await bench.look()).reason is RebalanceReason.GAIN_TOO_SMALL


async def test_what_is_no_longer_the_same_is_tried_at_once() -> None:
    bench = Bench(Worker(too_heavy=True))
    await bench.look()
    bench.worker.too_heavy = False
    assert (await bench.look()).reason is RebalanceReason.PLANNING_TOO_HEAVY
    fewer = question(ground=replace(GROUND, shards=3))
    assert (await bench.look(fewer)).reason is RebalanceReason.GAIN_TOO_SMALL
