"""Figure 6: random migrations never leave an expert unserved, and take few rounds."""

from __future__ import annotations

import numpy as np

from benchmarks.brain import parameters as p
from benchmarks.brain.report import Row
from moe_placement import Placement
from moe_placement.migration import plan_migration
from moe_placement.topology import Topology


def random_placement(layers: int, experts: int, slots: list[int], random: np.random.Generator) -> Placement:
    """Every expert somewhere, most of the remaining slots filled with further copies."""
    shards = len(slots)
    rows = []
    for _ in range(layers):
        held = np.zeros((experts, shards), dtype=bool)
        of_slot = random.permutation(np.repeat(np.arange(shards), slots))
        held[random.permutation(experts), of_slot[:experts]] = True
        for shard in of_slot[experts:]:
            free = np.flatnonzero(~held[:, shard])
            if len(free) and random.random() < 0.9:
                held[random.choice(free), shard] = True
        row: list[int] = []
        for shard in range(shards):
            inside = np.flatnonzero(held[:, shard]).tolist()
            row += inside + [-1] * (slots[shard] - len(inside))
        rows.append(row)
    return Placement.of(rows, slots, experts)


def random_case(random: np.random.Generator) -> tuple[Placement, Placement, Topology]:
    """At most 16 shards on up to 2 nodes, at most 64 experts, 1 spare buffer per shard."""
    shards, experts, layers = int(random.integers(2, 17)), int(random.integers(2, 65)), int(random.integers(1, 3))
    slots = [-(-experts // shards) + int(random.integers(0, 3))] * shards
    nodes = int(random.integers(1, 3))
    topology = Topology(tuple(shard * nodes // shards for shard in range(shards)), tuple(slots), spare_slots=1)
    first, second = (random_placement(layers, experts, slots, random) for _ in range(2))
    return first, second, topology


def rows() -> list[Row]:
    """In-degree is given by the plan; out-degree is what the schedule's own choice of sources makes of it."""
    random = np.random.default_rng(p.MIGRATION_SEED)
    unserved = wrong = late = 0
    excess = []
    for _ in range(p.MIGRATION_PLANS):
        current, target, topology = random_case(random)
        migration = plan_migration(current, target, topology)
        state = current.held
        for state in migration.states(current.held):
            unserved += int(not state.any(axis=2).all())
        wrong += int((state != target.held).any())
        degree = max(_busiest(migration.bytes_in, topology), _busiest(migration.bytes_out, topology))
        rounds = sum(bool(step.transfers) for step in migration.rounds)
        late += int(rounds > max(1.2 * degree, degree + 2))
        excess.append(rounds - degree)
    return [
        Row(6, f"{p.MIGRATION_PLANS} random plans: states with an unserved expert", unserved, 0),
        Row(6, "   plans that do not end at their target", wrong, 0),
        Row(6, "   plans with more than max(1.2 x degree, degree + 2) rounds", late, 0),
        Row(6, "   rounds beyond max(in, out), mean", float(np.mean(excess))),
    ]


def _busiest(moved: np.ndarray, topology: Topology) -> int:
    return round(float(moved.max()) / topology.costs.bytes_per_expert)
