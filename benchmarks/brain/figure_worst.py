"""Figure 10: never slower than EPLB-global where there is nothing to find."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.cases import KINDS, Case, cases
from benchmarks.brain.report import Row
from moe_placement.baselines import eplb_global
from moe_placement.simulation import simulate
from moe_placement.solver import solve
from moe_placement.statistics import RoutingStatistics


@dataclass(frozen=True, slots=True)
class Lost:
    """Modelled seconds of ours over EPLB-global's, less 1: above 0 where ours is slower."""

    kind: str
    seen: float
    unseen: float


def lost(case: Case) -> Lost:
    """Planned on the seen traffic by both."""
    statistics = RoutingStatistics.of_ids(case.seen, case.experts)
    ours = solve(statistics, case.topology).placement
    theirs = eplb_global(statistics.load, case.topology)
    seen, unseen = (
        simulate(ids, ours, case.topology).seconds / simulate(ids, theirs, case.topology).seconds - 1
        for ids in (case.seen, case.unseen)
    )
    return Lost(case.kind, seen, unseen)


def rows(count: int = p.CASES) -> list[Row]:
    """Cases that are slower, the worst, and what each kind loses on traffic that was not planned on."""
    found = [lost(case) for case in cases(count)]
    slower = sum(one.seen > 0 for one in found)
    worst = max(one.seen for one in found)
    return [
        Row(10, f"of {count} cases slower than EPLB-global on the traffic planned on", slower, 0),
        Row(10, "   the worst of them", 100 * worst, unit=" %"),
        *(
            Row(10, f"{kind}: unseen traffic, modelled time against EPLB-global, median",
                100 * float(np.median([one.unseen for one in found if one.kind == kind])), 1.0, unit=" %")
            for kind in KINDS
        ),
    ]  # fmt: skip
