"""Figures 3 and 12: node fan-out against EPLB on prompts the solver has not seen, and how its prices were found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement.baselines import eplb_global
from moe_placement.placement import Placement
from moe_placement.simulation import Figures, simulate
from moe_placement.solver import Limits, solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes
from moe_placement.traces import Trace, fitted_trace, load_pair_counts, read_trace, split_by_prompt

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "traces/wide-64x8.npz"


@dataclass(frozen=True)
class Duel:
    """Ours against EPLB-global, both planned on ``seen``; figures are of ours and theirs, measured when asked for."""

    ours: Placement
    theirs: Placement
    seen: Trace
    unseen: Trace
    topology: Topology
    seed: int

    @cached_property
    def figures(self) -> tuple[Figures, Figures]:
        """On traffic that neither saw."""
        return self._measure(self.unseen)

    @cached_property
    def shuffled(self) -> tuple[Figures, Figures]:
        """On the same with its structure shuffled away, all loads kept."""
        return self._measure(self.unseen.shuffled(self.seed))

    @cached_property
    def planned(self) -> tuple[Figures, Figures]:
        """On the traffic planned on."""
        return self._measure(self.seen)

    def _measure(self, traffic: Trace) -> tuple[Figures, Figures]:
        ours, theirs = (simulate(traffic.ids, placement, self.topology) for placement in (self.ours, self.theirs))
        return ours, theirs

    @property
    def fewer(self) -> float:
        """Relative drop in node fan-out; of shards visited where there is one node."""
        return fewer(*self.figures)

    @property
    def shard_balance(self) -> float:
        """Gained against theirs."""
        ours, theirs = self.figures
        return ours.shard_balance - theirs.shard_balance

    @property
    def node_balance(self) -> float:
        """The same over nodes."""
        ours, theirs = self.figures
        return ours.node_balance - theirs.node_balance

    @property
    def slower(self) -> float:
        """Modelled time of ours over theirs, less 1."""
        ours, theirs = self.figures
        return ours.seconds / theirs.seconds - 1


def fewer(ours: Figures, theirs: Figures) -> float:
    """Relative drop in node fan-out."""
    return 1 - ours.node_fan_out / theirs.node_fan_out


def duel(seen: Trace, unseen: Trace, topology: Topology, seed: int, limits: Limits | None = None) -> Duel:
    """Statistics from ``seen``."""
    statistics = RoutingStatistics.of_ids(seen.ids, seen.experts, seed=seed)
    ours = solve(statistics, topology, limits=limits).placement
    return Duel(ours, eplb_global(statistics.load, topology), seen, unseen, topology, seed)


def traces() -> Iterator[tuple[str, Callable[[int], Trace], tuple[int, int, int], tuple[int, int, int]]]:
    """Name, the trace of a seed, and a cluster of several nodes and one of a single node."""
    for name in p.FITTED:
        counts = load_pair_counts(ROOT / f"traces/mbolt/{name}.npz")

        @cache
        def fitted(seed: int, counts=counts) -> Trace:
            return fitted_trace(
                counts, p.FITTED_TOKENS, p.FITTED_LAYERS, p.FITTED_RANK, p.FITTED_PROMPT_SHARE,
                p.FITTED_PROMPT_TOKENS, seed,
            )  # fmt: skip

        yield f"fitted to {name}", fitted, p.FITTED_CLUSTERS[name], p.FITTED_SINGLE[name]
    recorded = read_trace(RECORDED)
    yield "recorded 64 experts", lambda _seed: recorded, p.RECORDED_CLUSTER, p.RECORDED_SINGLE


def held_out_rows() -> list[Row]:
    """Split by prompt, half and half."""
    found = []
    for name, trace_of, several, single in traces():
        duels, on_one = [], []
        for seed in p.COPIES_SEEDS:
            seen, unseen = split_by_prompt(trace_of(seed), seed=seed)
            duels.append(duel(seen, unseen, h100_nodes(*several), seed))
            on_one.append(duel(seen, unseen, h100_nodes(*single), seed))
        found += _rows(name, duels, on_one)
    return found


def _rows(name: str, duels: list[Duel], on_one: list[Duel]) -> list[Row]:
    recorded = name.startswith("recorded")
    kept = [d.fewer / fewer(*d.planned) for d in duels]
    theirs = [d.figures[1].node_fan_out for d in duels]
    return [
        Row(3, f"{name}: node fan-out of EPLB-global", float(np.median(theirs))),
        spread(3, f"{name}: less node fan-out", [d.fewer for d in duels], 0.18 if recorded else 0.25),
        spread(3, f"{name}: of what is saved on the traffic planned on", kept, 0.8 if recorded else None),
        spread(3, f"{name}: shard balance against EPLB-global", [d.shard_balance for d in duels], -0.005),
        spread(3, f"{name}: node balance against EPLB-global", [d.node_balance for d in duels], -0.01),
        spread(3, f"{name}: fewer on a shuffle (replication alone)", [fewer(*d.shuffled) for d in duels]),
        spread(3, f"{name}: modelled time against EPLB-global", [d.slower for d in duels], 0.0, at_most=True),
        spread(3, f"{name}: the same on one node", [d.slower for d in on_one], 0.0, at_most=True),
    ]


def spread(
    figure: int, name: str, values: list[float], aim: float | None = None, at_most: bool = False
) -> Row:  # fmt: skip
    """The median, with the least and the most beside the name."""
    return Row(figure, f"{name} ({min(values):.3f} .. {max(values):.3f})", float(np.median(values)), aim, at_most)


def left_out_rows() -> list[Row]:
    """The two prices of risk, chosen on two traces and judged on the third: most node fan-out saved while balance
    holds. Beside them what the solver takes from the number of shards, chosen on none.
    """
    derived = (None, None)
    grid: list[tuple[float | None, float | None]] = [derived, *product(p.RISKS, p.SHARD_RISKS)]
    results: dict[str, dict[tuple[float | None, float | None], list[Duel]]] = {}
    for name, trace_of, several, _ in traces():
        halves = [split_by_prompt(trace_of(seed), seed=seed) for seed in p.SEEDS]
        results[name] = {
            risks: [
                duel(seen, unseen, h100_nodes(*several), seed, Limits(risk=risks[0], shard_risk=risks[1]))
                for seed, (seen, unseen) in zip(p.SEEDS, halves, strict=True)
            ]
            for risks in grid
        }
    found = []
    for name, of_risks in results.items():
        others = [of_other for other, of_other in results.items() if other != name]
        chosen = max(grid[1:], key=lambda risks: sum(_worth(of_other[risks]) for of_other in others))
        for risks, how in ((chosen, "left out, risk {:g}, of a shard {:g}".format(*chosen)), (derived, "risk derived")):
            duels, label = of_risks[risks], f"{name}, {how}"
            found += [
                spread(12, f"{label}: less node fan-out", [d.fewer for d in duels]),
                spread(12, f"{label}: shard balance", [d.shard_balance for d in duels]),
                spread(12, f"{label}: node balance", [d.node_balance for d in duels]),
            ]
    return found


def _worth(duels: list[Duel]) -> float:
    """Node fan-out saved, less ten times what balance misses its aims by."""
    missed = sum(
        max(0.0, aim - float(np.median(values)))
        for aim, values in (
            (-0.005, [d.shard_balance for d in duels]),
            (-0.01, [d.node_balance for d in duels]),
        )
    )
    return float(np.median([d.fewer for d in duels])) - 10 * missed
