"""Figure 8: statistics from one traffic, judged on another: node fan-out saved against node balance lost, as a line.

From one kind of text to the others, and from prompts that are read to what is written on from other prompts. Experts
that are used together are what saves node fan-out, and what surges together elsewhere: the price of risk between nodes
says how much of one is given for the other.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.figure_fan_out import RECORDED, ROOT, Duel, duel
from benchmarks.brain.report import Row
from moe_placement.solver import Limits
from moe_placement.topology import Topology, h100_nodes
from moe_placement.traces import Trace, generate_trace, read_trace, split_by_prompt

CONTINUED = ROOT / "traces/tiny-continued.npz"
PROMPT, CONTINUATION = ": prompt", ": continuation"
"""How the names of its domains end."""
Shift = tuple[Trace, Trace]
"""What is planned on, and what is judged on."""


def rows() -> list[Row]:
    """A line for each kind of change."""
    generated = [generate_trace(p.SHIFT_TRAFFIC, seed) for seed in p.SHIFT_SEEDS]
    wide, tiny = h100_nodes(*p.RECORDED_CLUSTER), h100_nodes(*p.CONTINUED_CLUSTER)
    return [
        *line("generated, to other text", [pair for trace in generated for pair in to_other_text(trace)], wide),
        *line("recorded, to other text", to_other_text(read_trace(RECORDED)), wide),
        *line("models/tiny, prefill to decode", to_decode(read_trace(CONTINUED)), tiny),
    ]


def to_other_text(trace: Trace) -> list[Shift]:
    """Every kind of text in turn is planned on; the others together are the traffic."""
    return [(trace.of_domain(name), trace.take(trace.domain != number)) for number, name in enumerate(trace.domains)]


def to_decode(trace: Trace) -> list[Shift]:
    """Half of the prompts are planned on, the continuations of the others are the traffic; once for each seed."""
    writes = np.array([name.endswith(CONTINUATION) for name in trace.domains])
    halves = [split_by_prompt(trace, seed=seed) for seed in p.SHIFT_SEEDS]
    return [(seen.take(~writes[seen.domain]), unseen.take(writes[unseen.domain])) for seen, unseen in halves]


def line(name: str, shifts: list[Shift], topology: Topology) -> list[Row]:
    """A point for each price of risk, and what is saved where two points of node balance are lost."""
    found, points = [], []
    for risk in p.SHIFT_RISKS:
        duels: list[Duel] = [
            duel(seen, traffic, topology, number, Limits(risk=risk)) for number, (seen, traffic) in enumerate(shifts)
        ]
        saved, lost = (np.array(values) for values in zip(*((d.fewer, -d.node_balance) for d in duels), strict=True))
        points.append((float(saved.mean()), float(lost.mean())))
        error = 1 / max(np.sqrt(len(duels)), 1.0)
        label = f"{name}, {len(duels)} pairs, risk {risk:g}"
        found += [
            Row(8, f"{label}: less node fan-out (+- {error * saved.std():.3f})", points[-1][0]),
            Row(8, f"{label}: node balance lost against EPLB-global (+- {error * lost.std():.3f})", points[-1][1]),
        ]
    saved_at = at_loss(points, 0.02)
    return [*found, Row(8, f"{name}: less node fan-out where 2 points of node balance are lost", saved_at, 0.10, False)]


def at_loss(points: list[tuple[float, float]], lost: float) -> float:
    """What is saved where ``lost`` is lost, between the measured (saved, lost); the most saved below it at the ends."""
    below = [saved for saved, loss in points if loss <= lost]
    crossing = [
        s + (t - s) * (lost - a) / (b - a)
        for (s, a), (t, b) in pairwise(points)
        if min(a, b) <= lost <= max(a, b) and a != b
    ]
    return max([*below, *crossing], default=0.0)
