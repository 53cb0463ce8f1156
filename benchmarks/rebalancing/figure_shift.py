"""Figure 5: other text comes, and the placement follows; the same text goes on, and nothing moves.

The traffic is recorded and goes through real shards, each on a node of its own, where visits are what costs; what is
proposed comes from the operator's own job on what the data plane gathered and told, every ten seconds, from statistics
that are full of the text before. The best that could be is solved from scratch on the whole of the second traffic, and
migrated to by hand in the same run.

Fan-out can be bought with balance, and the other way round, so placements are compared by the fan-out that they would
have at equal balance: if each shard were visited as often as the busiest one of its layer, which is what a step waits
for.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.figure_prediction import RECORDED, TRACES
from benchmarks.rebalancing.operator_looks import Looks
from benchmarks.rebalancing.replay import Replay, replay, stand_in
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import Site, be_patient
from benchmarks.rebalancing.traffic import PROMPTS, Sender, steps
from moe_placement import Observed, Placement, RoutingStatistics, solve
from moe_placement.traces import Trace, read_trace

FIGURE = 5
INTERVAL_S = 10.0
BEFORE, AFTER = 6, 3
"""Intervals of the first kind of text, after which the sample is full of it, and of the second."""
ROWS_PER_SECOND = 640.0
"""Of all prompts together: ten tokens a second of each, so that one is over within an interval, as requests are. Slower
ones would be there in several looks, and be planned from and judged by as if they were the traffic to come."""
REACHED, LEAST_PAIRS = 0.90, 2000


@dataclass(frozen=True, slots=True)
class Counted:
    """Of the second traffic by one placement; ``level``: visits per row and layer at equal balance."""

    figures: Observed
    level: float


@dataclass(frozen=True, slots=True)
class Shift:
    """Attributes:
    first, followed, best: the placement of the first traffic, what the proposals led to, and the best.
    early: proposals accepted before the shift; moves: after it.
    """

    name: str
    first: Counted
    followed: Counted
    best: Counted
    early: int
    moves: int

    @property
    def reached(self) -> float:
        """Part of the drop of fan-out, at equal balance, that was possible."""
        return (self.first.level - self.followed.level) / (self.first.level - self.best.level)


def rows(sizes: Sizes) -> list[Row]:
    """On the recorded traffic of ``models/tiny``."""
    be_patient()
    name, shards, slots = RECORDED["tiny"]
    trace = read_trace(TRACES / name)
    layers, top_k = trace.ids.shape[1:]
    sites = [Site(f"node-{number}") for number in range(shards)]
    with stand_in(trace.experts, layers, top_k) as (path, width), replay(path, shards, slots, width, sites) as through:
        through.experts.gatherer.configure(INTERVAL_S)
        names = trace.domains
        pairs = [(names[n % len(names)], names[(n + 1) % len(names)]) for n in range(sizes.shifts)]
        shifts = [_shift(through, trace, one, other, slots, n) for n, (one, other) in enumerate(pairs)]
        quiet = _quiet(through, trace, slots, sizes.quiet)
    return [*_shift_rows(name, shifts), *quiet]


def _shift(through: Replay, trace: Trace, one: str, other: str, slots: int, seed: int) -> Shift:
    first, second = trace.of_domain(one), trace.of_domain(other)
    looks = Looks(through, slots, PROMPTS)
    before = _best(looks, first)
    through.migrate(before)
    with Sender(through, steps(first, seed), ROWS_PER_SECOND) as sender:
        _look_on(looks, BEFORE)
        early = looks.moves
        sender.source = steps(second, seed)
        _look_on(looks, AFTER)
    placements = (before, through.placement, _best(looks, second))
    counted = [Counted(through.measure(each, second.ids), through.busiest()) for each in placements]
    found = Shift(f"{one} to {other}", *counted, early, looks.moves - early)
    for what, each in zip(("before", "followed", "best"), counted, strict=True):
        balance = f"fan-out {each.figures.fan_out:.3f}, balance {each.figures.balance:.3f}"
        print(f"{found.name}, {what}: {each.level:.3f} at equal balance ({balance})", flush=True)
    for look in looks.proposals[-AFTER:]:
        print(f"   {look.reason}: {look.message}", flush=True)
    print(f"{found.name}: {found.reached:.0%}, {found.moves} moves", flush=True)
    return found


def _quiet(through: Replay, trace: Trace, slots: int, intervals: int) -> list[Row]:
    looks = Looks(through, slots, PROMPTS)
    through.migrate(_best(looks, trace))
    with Sender(through, steps(trace, seed=99), ROWS_PER_SECOND) as sender:
        _look_on(looks, intervals)
    for proposal in looks.proposals:
        if proposal.accepted:
            print(f"moved in quiet traffic: {proposal.message}", flush=True)
    pairs = sender.rows * trace.ids.shape[2] / intervals
    return [
        Row(FIGURE, "mixed text: intervals", intervals, intervals, at_most=False),
        Row(FIGURE, "mixed text: pairs an interval and layer", pairs, LEAST_PAIRS, at_most=False),
        Row(FIGURE, "mixed text: moves", looks.moves, 0),
    ]


def _best(looks: Looks, trace: Trace) -> Placement:
    """From scratch, of all that will come. In one window: a recording has its documents one after the other, and what
    surges from one to the next does not where many are there at a time."""
    return solve(RoutingStatistics.of_ids(trace.ids, trace.experts, windows=1), looks.topology).placement


def _look_on(looks: Looks, intervals: int) -> None:
    """As the loop does: a placement that has just come is observed for an interval, in which nothing is looked at."""
    due, observed = time.monotonic(), False
    for _ in range(intervals):
        due += INTERVAL_S
        time.sleep(max(0.0, due - time.monotonic()))
        observed = not observed and looks.look().accepted


def _shift_rows(name: str, shifts: Sequence[Shift]) -> list[Row]:
    reached = [shift.reached for shift in shifts]
    apart = [shift.followed.figures.balance - shift.best.figures.balance for shift in shifts]
    dropped = [1 - shift.followed.figures.fan_out / shift.first.figures.fan_out for shift in shifts]
    return [
        Row(FIGURE, f"{name}: shifts", len(shifts), len(shifts), at_most=False),
        Row(
            FIGURE, f"{name}: gain reached within {AFTER} intervals, median", float(np.median(reached)), REACHED, False
        ),
        Row(FIGURE, f"{name}: the same, least", float(min(reached))),
        Row(FIGURE, f"{name}: drop of fan-out as it is, median", float(np.median(dropped))),
        Row(FIGURE, f"{name}: balance beside the best's, median", float(np.median(apart))),
        Row(FIGURE, f"{name}: moves before a shift, all runs", sum(shift.early for shift in shifts)),
        Row(FIGURE, f"{name}: moves after a shift, most", max(shift.moves for shift in shifts)),
    ]
