"""Figures 3 and 8: remote copies against EPLB on traffic the solver has not seen, and on another kind of traffic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement.baselines import eplb_global
from moe_placement.simulation import Figures, simulate
from moe_placement.solver import solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes
from moe_placement.traces import Trace, fitted_trace, generate_trace, load_pair_counts, read_trace, split_by_prompt

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "traces/wide-64x8.npz"


@dataclass(frozen=True, slots=True)
class Duel:
    """Ours against EPLB-global on the same traffic."""

    ours: Figures
    theirs: Figures
    shuffled_ours: Figures
    shuffled_theirs: Figures

    @property
    def fewer(self) -> float:
        """Relative drop in remote copies."""
        return 1 - self.ours.copies / self.theirs.copies

    @property
    def fewer_shuffled(self) -> float:
        """The same where sets were shuffled with all loads kept: what replication alone brings."""
        return 1 - self.shuffled_ours.copies / self.shuffled_theirs.copies


def duel(seen: Trace, unseen: Trace, topology: Topology, seed: int) -> Duel:
    """Statistics from ``seen``, figures from ``unseen``."""
    statistics = RoutingStatistics.of_ids(seen.ids, seen.experts, seed=seed)
    ours = solve(statistics, topology).placement
    theirs = eplb_global(statistics.load, topology)
    shuffled = unseen.shuffled(seed)
    return Duel(*(simulate(t.ids, x, topology) for t in (unseen, shuffled) for x in (ours, theirs)))


def held_out_rows() -> list[Row]:
    """Split by prompt, half and half."""
    found = []
    for name in p.FITTED:
        counts = load_pair_counts(ROOT / f"traces/mbolt/{name}.npz")
        duels = []
        for seed in p.SEEDS:
            trace = fitted_trace(
                counts, p.FITTED_TOKENS, p.FITTED_LAYERS, p.FITTED_RANK, p.FITTED_PROMPT_SHARE, p.FITTED_PROMPT_TOKENS,
                seed,
            )  # fmt: skip
            seen, unseen = split_by_prompt(trace, seed=seed)
            duels.append(duel(seen, unseen, h100_nodes(*p.FITTED_CLUSTERS[name]), seed))
        found += _rows(f"fitted to {name}", duels)
    if RECORDED.exists():
        trace = read_trace(RECORDED)
        duels = []
        for seed in p.SEEDS:
            seen, unseen = split_by_prompt(trace, seed=seed)
            duels.append(duel(seen, unseen, h100_nodes(*p.RECORDED_CLUSTER), seed))
        found += _rows("recorded 64 experts", duels)
    return found


def _rows(name: str, duels: list[Duel]) -> list[Row]:
    def median(values: list[float]) -> float:
        return float(np.median(values))

    shard = median([d.ours.shard_balance - d.theirs.shard_balance for d in duels])
    node = median([d.ours.node_balance - d.theirs.node_balance for d in duels])
    return [
        Row(3, f"{name}: remote copies of EPLB-global", median([d.theirs.copies for d in duels])),
        Row(3, f"{name}: fewer remote copies", median([d.fewer for d in duels]), 0.18, False, stretch=0.25),
        Row(3, f"{name}: shard balance against EPLB-global", shard, -0.005, False),
        Row(3, f"{name}: the same, second floor", median([d.fewer for d in duels]), 0.33, False, stretch=0.35),
        Row(3, f"{name}: node balance against EPLB-global", node, -0.01, False),
        Row(3, f"{name}: fewer on a shuffle (replication alone)", median([d.fewer_shuffled for d in duels])),
        Row(3, f"{name}: modelled time against EPLB-global",
            median([d.ours.seconds / d.theirs.seconds - 1 for d in duels])),
    ]  # fmt: skip


def shift_rows() -> list[Row]:
    """Every domain in turn gives the statistics; the others together are the traffic."""
    traces = [("generated", generate_trace(p.SHIFT_TRAFFIC, seed)) for seed in p.SEEDS]
    if RECORDED.exists():
        traces.append(("recorded", read_trace(RECORDED)))
    found = []
    for kind in dict.fromkeys(name for name, _ in traces):
        duels = []
        for _, trace in (entry for entry in traces if entry[0] == kind):
            for number, domain in enumerate(trace.domains):
                other = trace.take(trace.domain != number)
                duels.append(duel(trace.of_domain(domain), other, h100_nodes(*p.RECORDED_CLUSTER), number))
        fewer = float(np.mean([d.fewer for d in duels]))
        lost = float(np.mean([d.theirs.node_balance - d.ours.node_balance for d in duels]))
        found += [
            Row(8, f"{kind}, statistics of one domain, traffic of the others: fewer copies", fewer, 0.12, False),
            Row(8, f"{kind}, the same: node balance lost against EPLB-global", lost, 0.02),
        ]
    return found
