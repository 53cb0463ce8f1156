"""Generated cases of five kinds without structure, where a planner can only lose to one that balances loads alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.brain import parameters as p
from moe_placement.topology import Topology
from moe_placement.traces.generate import sample_sets

KINDS = ("zipf", "uniform", "in every token", "unequal shards", "k = E")


@dataclass(frozen=True, slots=True)
class Case:
    """``seen`` and ``unseen`` int16 ``[tokens, 1, k]``, drawn alike and apart."""

    kind: str
    topology: Topology
    experts: int
    seen: NDArray[np.int16]
    unseen: NDArray[np.int16]


def cases(count: int, most_experts: int = 512) -> Iterator[Case]:
    """``count`` of them, kinds in turn; smaller ``most_experts`` are faster."""
    for number in range(count):
        yield case(number, most_experts)


def case(number: int, most_experts: int = 512) -> Case:
    """1 to 8 nodes of 1 to 8 shards, 8 to ``most_experts`` experts, up to a quarter of redundant slots."""
    random = np.random.default_rng([p.CASES_SEED, number])
    kind = KINDS[number % len(KINDS)]
    nodes, width = int(random.integers(1, 9)), int(random.choice([1, 2, 4, 8]))
    shards = nodes * width
    experts = int(random.choice([n for n in (8, 16, 32, 64, 128, 256, 512) if n <= most_experts]))
    top_k = int(random.choice([1, 2, 4, 8]))
    if kind == "k = E":
        experts = top_k = int(random.choice([8, 16]))
    slots = np.full(shards, -(-int(experts * random.uniform(1.0, 1.25)) // shards))
    if kind == "unequal shards":
        # Every fourth shard has half the slots; the others make room for what does not fit there.
        slots[::4] = np.maximum(slots[::4] // 2, 1)
        while slots.sum() < experts:
            slots += 1
    logits = np.zeros(experts)
    if kind in ("zipf", "unequal shards"):
        logits = random.permutation(-random.uniform(0.2, 1.2) * np.log(np.arange(1, experts + 1)))
    if kind == "in every token":
        logits[random.integers(experts)] = 50.0
    both = sample_sets(np.broadcast_to(logits, (2 * p.CASES_TOKENS, experts)), top_k, random)[:, None, :]
    node_of_shard = tuple(shard // width for shard in range(shards))
    topology = Topology(node_of_shard, tuple(slots.tolist()))
    return Case(kind, topology, experts, both[: p.CASES_TOKENS], both[p.CASES_TOKENS :])
