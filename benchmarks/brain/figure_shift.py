"""Figure 8: statistics from one kind of text, traffic of others: copies saved against node balance lost, as a line.

Experts that are used together are what saves copies, and what surges together on other text: the price of risk between
nodes says how much of one is given for the other.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.figure_copies import RECORDED, Duel, duel
from benchmarks.brain.report import Row
from moe_placement.solver import Limits
from moe_placement.topology import h100_nodes
from moe_placement.traces import Trace, generate_trace, read_trace


def rows() -> list[Row]:
    """Every kind of text in turn gives the statistics; the others together are the traffic."""
    found = []
    generated = [generate_trace(p.SHIFT_TRAFFIC, seed) for seed in p.SHIFT_SEEDS]
    for name, traces in (("generated", generated), ("recorded", [read_trace(RECORDED)])):
        line = []
        for risk in p.SHIFT_RISKS:
            duels = [one for trace in traces for one in _duels(trace, Limits(risk=risk))]
            line.append((float(np.mean([d.fewer for d in duels])), -float(np.mean([d.node_balance for d in duels]))))
            kinds = f"{name}, {len(duels)} pairs, risk {risk:g}"
            found += [
                Row(8, f"{kinds}: fewer copies", line[-1][0]),
                Row(8, f"{kinds}: node balance lost against EPLB-global", line[-1][1]),
            ]
        found.append(
            Row(8, f"{name}: fewer copies where 2 points of node balance are lost", at_loss(line, 0.02), 0.10, False)
        )
    return found


def _duels(trace: Trace, limits: Limits) -> list[Duel]:
    return [
        duel(
            trace.of_domain(domain), trace.take(trace.domain != number), h100_nodes(*p.RECORDED_CLUSTER), number, limits
        )
        for number, domain in enumerate(trace.domains)
    ]


def at_loss(line: list[tuple[float, float]], lost: float) -> float:
    """Copies saved where ``lost`` is lost, between the measured (saved, lost); the most saved below it at the ends."""
    below = [saved for saved, loss in line if loss <= lost]
    crossing = [
        s + (t - s) * (lost - a) / (b - a)
        for (s, a), (t, b) in pairwise(line)
        if min(a, b) <= lost <= max(a, b) and a != b
    ]
    return max([*below, *crossing], default=0.0)
