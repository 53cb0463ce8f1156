"""Figure 1: in verify mode, no request fails and no token is wrong while experts move."""

from __future__ import annotations

import asyncio
import time

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.exchange import exchanged, new_copies
from benchmarks.rebalancing.models import models
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import Stage, stage
from benchmarks.serving.client import Verdict
from benchmarks.serving.traffic import ClosedLoop, Mix

FIGURE = 1
MIX = Mix(prompt=(4, 48), answer=(8, 64), distinct=24)


def rows(sizes: Sizes) -> list[Row]:
    """For each model; shards compute row by row, and every layer is compared bit for bit."""
    found: list[Row] = []
    with models(sizes.models) as served:
        for model in served:
            with stage(model, streams=sizes.streams, verify=True) as here:
                found += asyncio.run(_measure(here, sizes))
    return found


async def _measure(here: Stage, sizes: Sizes) -> list[Row]:
    random, shares = np.random.default_rng(1), []
    asks = MIX.endless()
    began = time.monotonic()
    async with ClosedLoop(here.streams, [asks] * sizes.streams) as loop:
        for _ in range(sizes.migrations):
            target = exchanged(here.placement, sizes.moved, random)
            shares.append(new_copies(here.placement, target).sum() / target.held.sum())
            await asyncio.to_thread(here.migrate, target)
    seconds = time.monotonic() - began
    judge = here.judge()
    complete = [outcome for outcome in loop.outcomes if outcome.verdict is Verdict.COMPLETE]
    wrong = await asyncio.to_thread(lambda: sum(judge.is_wrong(o.ask, o.token_ids) for o in complete))
    failed = [outcome for outcome in loop.outcomes if outcome.verdict is not Verdict.COMPLETE]
    for outcome in failed[:10]:
        print(f"{outcome.verdict}: {outcome.why}", flush=True)
    name = f"{here.model.name}, {here.model.shards} shards, {sizes.streams} streams"
    return [
        Row(FIGURE, f"{name}: migrations, verified", len(shares), sizes.migrations, at_most=False),
        Row(FIGURE, f"{name}: copies moved by the least of them", float(min(shares)), sizes.moved, at_most=False),
        Row(FIGURE, f"{name}: requests failed", len(failed), 0),
        Row(FIGURE, f"{name}: answers wrong", wrong, 0),
        Row(FIGURE, f"{name}: answers, complete to their last token", len(complete), 1, at_most=False),
        Row(FIGURE, f"{name}: of which the unsharded model itself is undecided", len(judge.excused)),
        Row(FIGURE, f"{name}: tokens a second meanwhile", sum(t.tokens for t in here.streams.ticks) / seconds),
    ]
