"""Figure 2: what migrations, slow ones on purpose, cost of throughput and of the gaps between tokens.

Windows with and without a migration take turns, so that what else the machine does falls on both alike.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.exchange import exchanged, new_copies
from benchmarks.rebalancing.models import models
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.spans import Span, gaps_in, of_those_beside, tokens_a_cpu_second, tokens_a_second
from benchmarks.rebalancing.stage import Stage, be_patient, stage
from benchmarks.serving.client import Verdict
from benchmarks.serving.traffic import ClosedLoop, Mix

FIGURE = 2
MIX = Mix(prompt=(4, 16), answer=(96, 128), distinct=64)
"""Mostly decoding: prompts would come in lumps."""
WARM_UP_S = 3.0
THROUGHPUT, GAP_MS = 0.95, 50.0


def rows(sizes: Sizes) -> list[Row]:
    """For each model."""
    be_patient()
    found: list[Row] = []
    with models(sizes.models) as served:
        for model in served:
            with stage(model, streams=sizes.streams) as here:
                found += asyncio.run(_measure(here, sizes))
    return found


async def _measure(here: Stage, sizes: Sizes) -> list[Row]:
    random = np.random.default_rng(2)
    # Every look at whether a migration is over takes of the engine's time here, and of none on Ray.
    here.cluster.look_seconds = 0.25
    still: list[Span] = []
    moving: list[Span] = []
    asks = MIX.endless()
    async with ClosedLoop(here.streams, [asks] * sizes.streams) as loop:
        await asyncio.sleep(WARM_UP_S)
        for _ in range(sizes.migrations):
            still.append(await _span(here, asyncio.sleep(sizes.migration_s)))
            target = exchanged(here.placement, sizes.moved, random)
            here.cluster.max_bytes_per_second = _rate(here, new_copies(here.placement, target), sizes.migration_s)
            moving.append(await _span(here, asyncio.to_thread(here.migrate, target)))
        still.append(await _span(here, asyncio.sleep(sizes.migration_s)))
    failed = sum(outcome.verdict is not Verdict.COMPLETE for outcome in loop.outcomes)
    return _rows(here, sizes, still, moving, failed)


async def _span(here: Stage, work: Awaitable[object]) -> Span:
    begin, cpu = time.monotonic(), here.cpu_seconds()
    await work
    return Span(begin, time.monotonic(), here.cpu_seconds() - cpu)


def _rate(here: Stage, copies: np.ndarray, seconds: float) -> int:
    """Bytes a second for a shard, of which that with most copies to get needs ``seconds``."""
    # The last copy is there when its bytes have come, not when they are paid for.
    return int((copies.max() - 1) * here.cluster.facts.bytes_per_expert / seconds)


def _rows(here: Stage, sizes: Sizes, still: Sequence[Span], moving: Sequence[Span], failed: int) -> list[Row]:
    ticks = here.streams.ticks
    without, during = tokens_a_second(ticks, still), tokens_a_second(ticks, moving)
    ratio = float(np.median(of_those_beside(during, without)))
    slow, slow_without = (1000 * float(np.quantile(gaps_in(ticks, spans), 0.999)) for spans in (moving, still))
    by_cpu = tokens_a_cpu_second(ticks, moving) / tokens_a_cpu_second(ticks, still)
    name = f"{here.model.name}, {here.model.shards} shards, {sizes.streams} streams"
    return [
        Row(FIGURE, f"{name}: migrations", len(moving), sizes.migrations, at_most=False),
        Row(FIGURE, f"{name}: seconds of the shortest", min(s.seconds for s in moving), sizes.migration_s, False),
        Row(FIGURE, f"{name}: requests failed", failed, 0),
        Row(FIGURE, f"{name}: windows in which no token came at all", sum(not each for each in (*without, *during))),
        Row(FIGURE, f"{name}: tokens a second without, median", float(np.median(without))),
        Row(FIGURE, f"{name}: throughput during, of that beside it, median", ratio, THROUGHPUT, at_most=False),
        Row(FIGURE, f"{name}: tokens of a second of processor time, likewise, all together", by_cpu),
        Row(FIGURE, f"{name}: gap of tokens without, p99.9, ms", slow_without),
        Row(FIGURE, f"{name}: the same during, ms", slow, slow_without + GAP_MS),
    ]
