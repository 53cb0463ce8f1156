"""Figure 4: three placements on the same traffic: over unix sockets, and over links that are the limit or are not.

Greedy answers are the same in every placement, so the traffic is the same to the last expert set. Placements are made
of what the data plane gathered on other prompts. All are measured in each round, and compared within it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

from benchmarks.brain.report import Row
from benchmarks.rebalancing.links import DELAY_S, Links, SlowFabric, linked_nodes
from benchmarks.rebalancing.models import Model, models
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import Site, Stage, be_patient, counted, stage
from benchmarks.rebalancing.texts import prompts
from moe_contract.report import EpochFigures
from moe_placement import Placement, RoutingStatistics, Topology, one_host, solve
from moe_placement.baselines import eplb_global, round_robin

FIGURE = 4
GAIN = 1.10
LIMITED = 0.5
"""Links are the limit where load-only is at most so fast as without one."""
PROMPT, ANSWER = 32, 32
"""Tokens of each."""
TEXTS, LEARNT = 256, 16000
"""What the placements are made of: prompts, and rows whose routing the data plane gathered of them."""
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


def rows(sizes: Sizes) -> list[Row]:
    """4 and 8 shards on this machine, then the same on 2 and 4 simulated nodes; little room and much in each."""
    be_patient()
    found: list[Row] = []
    with models(sizes.models) as served:
        for model, room in product(served, sizes.rooms):
            for shards in (4, 8):
                found += _on_one_machine(replace(model, shards=shards, copies=1), room, sizes)
            for shards, nodes in ((4, 2), (8, 4)):
                found += _on_nodes(replace(model, shards=shards, copies=1), nodes, room, sizes)
    return found


def _on_one_machine(model: Model, room: float, sizes: Sizes) -> list[Row]:
    with stage(model, streams=sizes.streams) as here:
        curve = _measure(here, {AFFINITY: _one_machine(here, room, sizes)}, None, sizes)
    name = f"{model.name}, {model.shards} shards, {room:g} slots an expert, unix sockets"
    return [*_counted(name, curve, model), *_speeds(name, curve, None, None)]


def _on_nodes(model: Model, nodes: int, room: float, sizes: Sizes) -> list[Row]:
    name = f"{model.name}, {model.shards} shards on {nodes} nodes, {room:g} slots an expert"
    try:
        with linked_nodes(nodes) as links, _stage_on(links, model, sizes) as here:
            planned_for = {AFFINITY: PLANNED_FOR, SLOW: PLANNED_FOR_SLOW}
            topologies = {each: _linked(here, nodes, speed, room, sizes) for each, speed in planned_for.items()}
            curve = _measure(here, topologies, links, sizes)
    except PermissionError as error:
        print(f"{name}: not measured: {error}", flush=True)
        return [Row(FIGURE, f"{name}: measured", 0, 1, at_most=False)]
    limited = [rate for rate in sizes.rates if curve.is_limited(rate)]
    found = _counted(name, curve, model)
    for rate in (*sizes.rates, None):
        found += _speeds(name, curve, rate, GAIN if rate in limited else None)
    # Where links were the limit at no rate nothing was judged.
    return [*found, Row(FIGURE, f"{name}: rates at which links are the limit", len(limited), 1, at_most=False)]


@contextmanager
def _stage_on(links: Links, model: Model, sizes: Sizes) -> Iterator[Stage]:
    per_node = model.shards // links.count
    nodes = [shard // per_node for shard in range(model.shards)]
    sites = [Site(f"node-{node}", links.host(node), links.namespace(node)) for node in nodes]
    with stage(model, streams=sizes.streams, sites=sites, node="front", through=SlowFabric) as here:
        yield here


def _one_machine(here: Stage, room: float, sizes: Sizes) -> Topology:
    model, facts = here.model, here.cluster.facts
    slots = math.ceil(facts.experts * room / model.shards)
    plain = one_host(model.shards, slots, facts.bytes_per_expert, model.width)
    return replace(plain, costs=replace(plain.costs, tokens_per_step=sizes.streams))


def _linked(here: Stage, nodes: int, speed: float, room: float, sizes: Sizes) -> Topology:
    """Links of ``speed`` Gb/s. Attention is on no node of theirs: what visits a shard goes over its node's link."""
    plain, per_node = _one_machine(here, room, sizes), here.model.shards // nodes
    # A vector goes to each shard by itself, and the shards of a node share its link.
    share = speed * 1e9 / 8 / per_node
    costs = replace(plain.costs, link_bandwidth=share, network_bandwidth=share, latency=DELAY_S)
    return replace(plain, node_of_shard=tuple(shard // per_node for shard in range(here.model.shards)), costs=costs)


def _measure(here: Stage, topologies: Mapping[str, Topology], links: Links | None, sizes: Sizes) -> Curve:
    """``topologies``: what each placement that goes by affinity is planned for."""
    texts = prompts(TEXTS + sizes.answers, PROMPT, seed=1)
    learnt, judged = texts[:TEXTS], texts[TEXTS:]
    placements = _placements(_learn(here, learnt), topologies)
    rates = (None,) if links is None else (*sizes.rates, None)
    curve = Curve()
    for number in range(sizes.rounds):
        names = list(placements)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            here.migrate(placements[name])
            for rate in rates:
                _one(here, judged, links, rate, curve.points[name, rate])
            if links is not None:
                links.limit(None)
            curve.figures[name] = counted(here.cluster, len(rates) * len(judged) * (PROMPT + ANSWER) // 2)
    return curve


def _placements(statistics: RoutingStatistics, topologies: Mapping[str, Topology]) -> dict[str, Placement]:
    plain = topologies[AFFINITY]
    blind = {RANDOM: round_robin(statistics.load, plain), LOADS: eplb_global(statistics.load, plain)}
    return blind | {name: solve(statistics, topology).placement for name, topology in topologies.items()}


def _learn(here: Stage, texts: Sequence[tuple[int, ...]]) -> RoutingStatistics:
    """Answers are asked for until the data plane has told what it gathered of enough rows."""
    while True:
        here.complete(texts, ANSWER)
        statistics = here.cluster.statistics()
        if statistics is not None and statistics.tokens >= LEARNT:
            return statistics


def _one(here: Stage, texts: Sequence[tuple[int, ...]], links: Links | None, rate: float | None, point: Point) -> None:
    if links is not None:
        links.limit(rate)
    begin, carried = time.monotonic(), links.carried() if links is not None else 0
    tokens = sum(map(len, here.complete(texts, ANSWER)))
    point.speed.append(tokens / (time.monotonic() - begin))
    point.carried.append(((links.carried() if links is not None else 0) - carried) / tokens)


def _counted(name: str, curve: Curve, model: Model) -> list[Row]:
    found = []
    for placement, figures in curve.figures.items():
        found += [
            Row(FIGURE, f"{name}: {placement}, fan-out", figures.fan_out),
            Row(FIGURE, f"{name}: {placement}, balance", figures.shard_balance),
            Row(FIGURE, f"{name}: {placement}, bytes of rows a token and layer", figures.fan_out * 8 * model.width),
        ]
        if figures.node_fan_out and curve.points[placement, None].carried[0]:
            carried = float(np.median(curve.points[placement, None].carried))
            found += [
                Row(FIGURE, f"{name}: {placement}, node fan-out", figures.node_fan_out),
                Row(FIGURE, f"{name}: {placement}, KB of all links an answer's token", carried / 1000),
            ]
    return found


def _speeds(name: str, curve: Curve, rate: float | None, aim: float | None) -> list[Row]:
    where = name if rate is None else f"{name}, {rate:g} Gb/s"
    found = [Row(FIGURE, f"{where}: {LOADS}, tokens/s", float(np.median(curve.points[LOADS, rate].speed)))]
    for each in curve.figures:
        if each != LOADS:
            text = f"{where}: {each} against {LOADS}, tokens/s"
            found.append(Row(FIGURE, text, curve.ratio(each, rate), aim if each == SLOW else None, at_most=False))
    return found
