"""Figure 4: placements on the same traffic: over unix sockets, and over links that are the limit or are not.

``tiny`` answers prompts. Greedy answers are the same in every placement, so the traffic is the same to the last expert
set. Placements are made of what the data plane gathered on other prompts. All are measured in each round, and compared
within it. Random weights route by chance, where no placement gains anything: in place of the larger model recorded
traffic of one that was trained is sent (``recorded_links``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product

from benchmarks.brain.report import Row
from benchmarks.rebalancing import recorded_links
from benchmarks.rebalancing.curve import (
    AFFINITY,
    Curve,
    Point,
    counted_rows,
    linked,
    not_measured,
    planned,
    rows_of_links,
    speed_rows,
)
from benchmarks.rebalancing.links import Links, SlowFabric, linked_nodes
from benchmarks.rebalancing.models import Model, models
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import Stage, be_patient, counted, site, stage
from benchmarks.rebalancing.texts import prompts
from moe_placement import RoutingStatistics, Topology, one_host

PROMPT, ANSWER = 32, 32
"""Tokens of each."""
TEXTS, LEARNT = 256, 16000
"""What the placements are made of: prompts, and rows whose routing the data plane gathered of them."""


def rows(sizes: Sizes) -> list[Row]:
    """4 and 8 shards on this machine, then the same on 2 and 4 simulated nodes; little room and much in each."""
    be_patient()
    found: list[Row] = []
    with models([name for name in sizes.models if name == "tiny"]) as served:
        for model, room in product(served, sizes.rooms):
            for shards in (4, 8):
                found += _on_one_machine(replace(model, shards=shards, copies=1), room, sizes)
            for shards, nodes in ((4, 2), (8, 4)):
                found += _on_nodes(replace(model, shards=shards, copies=1), nodes, room, sizes)
    if "larger" in sizes.models:
        found += recorded_links.rows(sizes)
    return found


def _on_one_machine(model: Model, room: float, sizes: Sizes) -> list[Row]:
    with stage(model, streams=sizes.streams) as here:
        curve = _measure(here, {AFFINITY: _one_machine(here, room, sizes)}, None, sizes)
    name = f"{model.name}, {model.shards} shards, {room:g} slots an expert, unix sockets"
    return [*counted_rows(name, curve, model.width), *speed_rows(name, curve, None, None)]


def _on_nodes(model: Model, nodes: int, room: float, sizes: Sizes) -> list[Row]:
    name = f"{model.name}, {model.shards} shards on {nodes} nodes, {room:g} slots an expert"
    try:
        with linked_nodes(nodes) as links, _stage_on(links, model, sizes) as here:
            curve = _measure(here, linked(_one_machine(here, room, sizes), nodes), links, sizes)
    except PermissionError as error:
        return not_measured(name, error)
    return rows_of_links(name, curve, model.width, sizes)


@contextmanager
def _stage_on(links: Links, model: Model, sizes: Sizes) -> Iterator[Stage]:
    per_node = model.shards // links.count
    sites = [site(links, shard // per_node) for shard in range(model.shards)]
    with stage(model, streams=sizes.streams, sites=sites, node="front", through=SlowFabric) as here:
        yield here


def _one_machine(here: Stage, room: float, sizes: Sizes) -> Topology:
    model, facts = here.model, here.cluster.facts
    slots = math.ceil(facts.experts * room / model.shards)
    plain = one_host(model.shards, slots, facts.bytes_per_expert, model.width)
    return replace(plain, costs=replace(plain.costs, tokens_per_step=sizes.streams))


def _measure(here: Stage, topologies: Mapping[str, Topology], links: Links | None, sizes: Sizes) -> Curve:
    """``topologies``: what each placement that goes by affinity is planned for."""
    texts = prompts(TEXTS + sizes.answers, PROMPT, seed=1)
    learnt, judged = texts[:TEXTS], texts[TEXTS:]
    placements = planned(_learn(here, learnt), topologies)
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
