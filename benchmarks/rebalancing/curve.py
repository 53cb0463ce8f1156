"""Placements compared on the same traffic over links of different speeds: the curve, and the rows of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.links import DELAY_S
from benchmarks.rebalancing.sizes import Sizes
from moe_contract.report import EpochFigures
from moe_placement import Placement, RoutingStatistics, Topology, solve
from moe_placement.baselines import eplb_global, round_robin

FIGURE = 4
GAIN = 1.10
LIMITED = 0.5
"""Links are the limit where load-only is at most so fast as without one."""
PLANNED_FOR, PLANNED_FOR_SLOW = 1.0, 0.02
"""Gb/s of the links in the cost model, whatever they are."""
RANDOM, LOADS, AFFINITY, SLOW = "round robin", "load-only", "affinity", "affinity for slow links"


@dataclass(slots=True)
class Point:
    """One placement at one rate: tokens a second, and bytes of all links for each token, round by round."""

    speed: list[float] = field(default_factory=list)
    carried: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Curve:
    """Attributes:
    points: by placement and rate; None is no limit.
    figures: by placement, as the directory counted them.
    """

    points: dict[tuple[str, float | None], Point] = field(default_factory=lambda: defaultdict(Point))
    figures: dict[str, EpochFigures] = field(default_factory=dict)

    def ratio(self, name: str, rate: float | None) -> float:
        """Of tokens a second to load-only's, the median of the rounds."""
        pairs = zip(self.points[name, rate].speed, self.points[LOADS, rate].speed, strict=True)
        return float(np.median([one / other for one, other in pairs]))

    def is_limited(self, rate: float | None) -> bool:
        return float(np.median(self.points[LOADS, rate].speed)) <= LIMITED * np.median(self.points[LOADS, None].speed)


def planned(statistics: RoutingStatistics, topologies: Mapping[str, Topology]) -> dict[str, Placement]:
    """By name, all of the same traffic; ``topologies``: what each placement that goes by affinity is planned for."""
    plain = topologies[AFFINITY]
    blind = {RANDOM: round_robin(statistics.load, plain), LOADS: eplb_global(statistics.load, plain)}
    return blind | {name: solve(statistics, topology).placement for name, topology in topologies.items()}


def linked(plain: Topology, nodes: int) -> dict[str, Topology]:
    """``plain`` on so many nodes, with links of the speeds that are planned for. Attention is on none of these nodes:
    what visits a shard goes over its node's link."""
    per_node = plain.shards // nodes
    of_shards = tuple(shard // per_node for shard in range(plain.shards))

    def at(speed: float) -> Topology:
        # A vector goes to each shard by itself, and the shards of a node share its link.
        share = speed * 1e9 / 8 / per_node
        costs = replace(plain.costs, link_bandwidth=share, network_bandwidth=share, latency=DELAY_S)
        return replace(plain, node_of_shard=of_shards, costs=costs)

    return {AFFINITY: at(PLANNED_FOR), SLOW: at(PLANNED_FOR_SLOW)}


def counted_rows(name: str, curve: Curve, width: int) -> list[Row]:
    """What the directory counted, and what links carried for a token; ``width``: values of a row."""
    found = []
    for placement, figures in curve.figures.items():
        found += [
            Row(FIGURE, f"{name}: {placement}, fan-out", figures.fan_out),
            Row(FIGURE, f"{name}: {placement}, balance", figures.shard_balance),
            Row(FIGURE, f"{name}: {placement}, bytes of rows a token and layer", figures.fan_out * 8 * width),
        ]
        if figures.node_fan_out and curve.points[placement, None].carried[0]:
            carried = float(np.median(curve.points[placement, None].carried))
            found += [
                Row(FIGURE, f"{name}: {placement}, node fan-out", figures.node_fan_out),
                Row(FIGURE, f"{name}: {placement}, KB of all links a token", carried / 1000),
            ]
    return found


def rows_of_links(name: str, curve: Curve, width: int, sizes: Sizes) -> list[Row]:
    """Of nodes with links: judged at each rate at which links are the limit."""
    limited = [rate for rate in sizes.rates if curve.is_limited(rate)]
    found = counted_rows(name, curve, width)
    for rate in (*sizes.rates, None):
        found += speed_rows(name, curve, rate, GAIN if rate in limited else None)
    # Where links were the limit at no rate nothing was judged.
    return [*found, Row(FIGURE, f"{name}: rates at which links are the limit", len(limited), 1, at_most=False)]


def not_measured(name: str, error: PermissionError) -> list[Row]:
    """Where nodes cannot be simulated: below any aim."""
    print(f"{name}: not measured: {error}", flush=True)
    return [Row(FIGURE, f"{name}: measured", 0, 1, at_most=False)]


def speed_rows(name: str, curve: Curve, rate: float | None, aim: float | None) -> list[Row]:
    where = name if rate is None else f"{name}, {rate:g} Gb/s"
    found = [Row(FIGURE, f"{where}: {LOADS}, tokens/s", float(np.median(curve.points[LOADS, rate].speed)))]
    for each in curve.figures:
        if each != LOADS:
            text = f"{where}: {each} against {LOADS}, tokens/s"
            found.append(Row(FIGURE, text, curve.ratio(each, rate), aim if each == SLOW else None, at_most=False))
    return found
