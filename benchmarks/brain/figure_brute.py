"""Figure 11: how far from the best of all placements, in the modelled seconds that a plan is judged by.

Every placement of a small instance is replayed as ``simulate`` does it. Shards of one node are alike, and so are nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations, combinations_with_replacement

import numpy as np
from numpy.typing import NDArray

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement.dispatch import copies_of
from moe_placement.simulation import judge, simulate
from moe_placement.solver import solve
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Costs, Topology, one_host

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Small:
    """``ids`` int16 ``[tokens, 1, k]``; nodes and shards are alike."""

    ids: NDArray[np.int16]
    experts: int
    topology: Topology


def small(seed: int, number: int) -> Small:
    """Up to 6 experts in up to 8 slots of 1 or 2 nodes; few sets, unevenly popular; three kinds of costs."""
    random = np.random.default_rng([seed, number])
    while True:
        nodes, width, slots = int(random.integers(1, 3)), int(random.integers(1, 5)), int(random.integers(1, 5))
        experts = int(random.integers(3, 7))
        if nodes * width > 1 and experts <= nodes * width * slots <= 8 and slots < experts:
            break
    top_k = int(random.integers(1, min(experts, 4)))
    sets = np.array(list(combinations(range(experts), top_k)))
    popular = np.exp(random.normal(size=len(sets)) * random.uniform(0, 2))
    popular[random.random(len(sets)) < random.uniform(0, 0.7)] *= 0.01
    ids = sets[random.choice(len(sets), size=p.SMALL_TOKENS, p=popular / popular.sum())].astype(np.int16)
    costs = Costs()
    if random.random() < 1 / 3:
        costs = replace(costs, tokens_per_step=256)  # where weights take longer to read than to multiply with
    topology = Topology(
        tuple(shard // width for shard in range(nodes * width)), (slots,) * (nodes * width), costs=costs
    )
    if nodes == 1 and random.random() < 1 / 3:
        topology = one_host(width, slots)
    return Small(ids[:, None, :], experts, topology)


def best_seconds(instance: Small) -> float:
    """The least modelled seconds of all placements."""
    ids = instance.ids[:, 0]
    return min(
        judge(ids, copies_of(held, instance.topology), instance.topology, instance.experts).seconds
        for held in placements(instance.experts, instance.topology)
    )


def placements(experts: int, topology: Topology) -> Iterator[Bools]:
    """Bool ``[experts, shards]``: all that serve every expert, up to the order of shards and nodes.

    Slots may stay empty, but only where the copies there serve nobody else: what fills them is another placement.
    """
    slots, width = int(topology.slots[0]), topology.shards // topology.nodes
    shard = [sum(1 << e for e in chosen) for n in range(slots + 1) for chosen in combinations(range(experts), n)]
    node = list(combinations_with_replacement(shard, width))
    everyone = (1 << experts) - 1
    served = [int(np.bitwise_or.reduce(inside)) for inside in node]
    for pick in combinations_with_replacement(range(len(node)), topology.nodes):
        union = 0
        for index in pick:
            union |= served[index]
        if union == everyone:
            masks = np.array([mask for index in pick for mask in node[index]])
            yield ((masks[None, :] >> np.arange(experts)[:, None]) & 1).astype(bool)


def above_best(instance: Small) -> float:
    """Modelled seconds of the plan over the least there is, less 1."""
    plan = solve(RoutingStatistics.of_ids(instance.ids, instance.experts), instance.topology)
    return simulate(instance.ids, plan.placement, instance.topology).seconds / best_seconds(instance) - 1


def rows(count: int = p.SMALL_INSTANCES) -> list[Row]:
    """Two sets that the solver was made with, and one that it was not."""
    found = []
    names = [(f" of seed {seed}", seed) for seed in p.SMALL_SEEDS]
    for name, seed in (*names, (" that were never looked at", p.SMALL_UNSEEN_SEED)):
        above = [100 * above_best(small(seed, number)) for number in range(count)]
        found += [
            Row(
                11,
                f"{count} small instances{name}: above the best placement, mean",
                float(np.mean(above)),
                2.0,
                unit=" %",
            ),
            Row(11, "   the same, worst", float(np.max(above)), 10.0, unit=" %"),
        ]
    return found
