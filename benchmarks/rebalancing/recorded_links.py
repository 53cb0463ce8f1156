"""Figure 4 of recorded traffic: the expert sets of a trained model with 64 experts, top-8, go through real shards on
nodes with links. Its weights are not there: shards compute others of that geometry, and links carry as much.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from benchmarks.brain.report import Row
from benchmarks.rebalancing.curve import Curve, Point, linked, not_measured, planned, rows_of_links
from benchmarks.rebalancing.figure_prediction import TRACES
from benchmarks.rebalancing.links import Links, SlowFabric, linked_nodes
from benchmarks.rebalancing.replay import Replay, replay, stand_in
from benchmarks.rebalancing.sizes import Sizes
from benchmarks.rebalancing.stage import counted, site
from moe_placement import Placement, RoutingStatistics, one_host
from moe_placement.traces import Trace, read_trace

TRACE = "wide-64x8.npz"
KINDS = ("python", "german")
"""Of text: each is traffic by itself, as one application's is."""
NODES = ((4, 2), (8, 4))
"""Shards and nodes."""


def rows(sizes: Sizes) -> list[Row]:
    """For each kind of text, number of nodes and room."""
    trace = read_trace(TRACES / TRACE)
    found: list[Row] = []
    for room, (shards, nodes), kind in product(sizes.rooms, NODES, KINDS):
        name = f"{TRACE}, {kind}, {shards} shards on {nodes} nodes, {room:g} slots an expert"
        try:
            found += _rows(name, trace.of_domain(kind), shards, nodes, room, sizes)
        except PermissionError as error:
            found += not_measured(name, error)
    return found


def _rows(name: str, trace: Trace, shards: int, nodes: int, room: float, sizes: Sizes) -> list[Row]:
    learnt, judged = _halves(trace)
    layers, top_k = trace.ids.shape[1:]
    slots = math.ceil(trace.experts * room / shards)
    with stand_in(trace.experts, layers, top_k) as (path, width), linked_nodes(nodes) as links:
        sites = [site(links, shard * nodes // shards) for shard in range(shards)]
        with replay(path, shards, slots, width, sites, SlowFabric) as through:
            plain = one_host(shards, slots, through.cluster.facts.bytes_per_expert, width)
            plain = replace(plain, costs=replace(plain.costs, tokens_per_step=sizes.streams))
            placements = planned(RoutingStatistics.of_ids(learnt, trace.experts), linked(plain, nodes))
            curve = _measure(through, placements, links, judged, sizes)
    return rows_of_links(name, curve, width, sizes)


def _halves(trace: Trace) -> list[NDArray[np.int16]]:
    """Of the prompts: what is planned on, and what is measured."""
    prompts = np.random.default_rng(0).permutation(np.unique(trace.prompt))
    return [trace.ids[np.isin(trace.prompt, part)] for part in np.array_split(prompts, 2)]


def _measure(
    through: Replay, placements: dict[str, Placement], links: Links, ids: NDArray[np.int16], sizes: Sizes
) -> Curve:
    curve, rates = Curve(), (*sizes.rates, None)
    for number in range(sizes.rounds):
        names = list(placements)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            through.migrate(placements[name])
            for rate in rates:
                links.limit(rate)
                _one(through, links, ids, curve.points[name, rate])
            links.limit(None)
            curve.figures[name] = counted(through.cluster, len(rates) * len(ids))
    return curve


def _one(through: Replay, links: Links, ids: NDArray[np.int16], point: Point) -> None:
    """All rows once."""
    begin, carried = time.monotonic(), links.carried()
    through.send(ids)
    point.speed.append(len(ids) / (time.monotonic() - begin))
    point.carried.append((links.carried() - carried) / len(ids))
