"""Figure 5: other text comes, and the placement follows; the same text goes on, and nothing moves.

The traffic is recorded and goes through real shards; what is proposed comes from the operator's own job on what the
data plane gathered and told, every ten seconds. The best that could be is solved from scratch on the whole of the
second traffic, and migrated to by hand in the same run.
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
from benchmarks.rebalancing.stage import be_patient
from benchmarks.rebalancing.traffic import PROMPTS, Sender, steps
from moe_placement import Observed, Placement, RoutingStatistics, solve
from moe_placement.traces import Trace, read_trace

FIGURE = 5
INTERVAL_S = 10.0
BEFORE, AFTER = 3, 3
"""Intervals of the first kind of text, and of the second."""
ROWS_PER_SECOND = 160.0
REACHED, LEAST_PAIRS = 0.90, 2000


@dataclass(frozen=True, slots=True)
class Shift:
    """Attributes:
    first, followed, best: counted of the second traffic, by the placement of the first one, by what the proposals led
        to, and by the best.
    early: proposals accepted before the shift; moves: after it.
    """

    name: str
    first: Observed
    followed: Observed
    best: Observed
    early: int
    moves: int

    @property
    def reached(self) -> float:
        """Part of the drop of fan-out that was possible."""
        return (self.first.fan_out - self.followed.fan_out) / (self.first.fan_out - self.best.fan_out)


def rows(sizes: Sizes) -> list[Row]:
    """On the recorded traffic of ``models/tiny``."""
    be_patient()
    name, shards, slots = RECORDED["tiny"]
    trace = read_trace(TRACES / name)
    layers, top_k = trace.ids.shape[1:]
    with stand_in(trace.experts, layers, top_k) as (path, width), replay(path, shards, slots, width) as through:
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
    counted = [through.measure(each, second.ids) for each in placements]
    found = Shift(f"{one} to {other}", *counted, early, looks.moves - early)
    print(f"{found.name}: {found.reached:.0%}, {found.moves} moves; {looks.proposals[-1].message}", flush=True)
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
    """From scratch, of all that will come."""
    return solve(RoutingStatistics.of_ids(trace.ids, trace.experts), looks.topology).placement


def _look_on(looks: Looks, intervals: int) -> None:
    due = time.monotonic()
    for _ in range(intervals):
        due += INTERVAL_S
        time.sleep(max(0.0, due - time.monotonic()))
        looks.look()


def _shift_rows(name: str, shifts: Sequence[Shift]) -> list[Row]:
    reached = [shift.reached for shift in shifts]
    apart = [shift.followed.balance - shift.best.balance for shift in shifts]
    return [
        Row(FIGURE, f"{name}: shifts", len(shifts), len(shifts), at_most=False),
        Row(
            FIGURE, f"{name}: gain reached within {AFTER} intervals, median", float(np.median(reached)), REACHED, False
        ),
        Row(FIGURE, f"{name}: the same, least", float(min(reached))),
        Row(FIGURE, f"{name}: balance beside the best's, median", float(np.median(apart))),
        Row(FIGURE, f"{name}: moves before a shift, all runs", sum(shift.early for shift in shifts)),
        Row(FIGURE, f"{name}: moves after a shift, most", max(shift.moves for shift in shifts)),
    ]
