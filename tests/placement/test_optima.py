"""The split kernel against exhaustive search on tiny instances, and the cost table against its definition."""

from itertools import combinations, product

import numpy as np
import pytest

from moe_placement.solver import cover
from moe_placement.solver.constants import CAP
from moe_placement.solver.layer import place_layer
from moe_placement.solver.problem import LayerProblem, Prices
from moe_placement.topology import Topology


def visits(masks: tuple[int, ...], parts: int, home: int | None) -> int:
    """The fewest parts that serve all masks; the home part is free."""
    for size in range(parts + 1):
        for chosen in combinations(range(parts), size):
            subset = sum(1 << part for part in chosen) | (0 if home is None else 1 << home)
            if all(mask & subset for mask in masks):
                return size
    raise AssertionError("every mask is met by all parts")


@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_the_table_holds_exact_minimum_covers(parts: int) -> None:
    hits = cover.hits(parts)
    outside, inside = (cover.visit_costs(np.ones(parts), part) for part in (0.0, 1 / parts))
    random = np.random.default_rng(parts)
    for _ in range(60):
        masks = tuple(int(m) for m in random.integers(1, 1 << parts, size=4))
        family = int(np.bitwise_and.reduce(hits[list(masks)]))
        assert outside[family] == visits(masks, parts, None)
        assert inside[family] == pytest.approx(np.mean([visits(masks, parts, home) for home in range(parts)]))


@pytest.mark.parametrize("seed", range(6))
def test_optimal_on_instances_small_enough_to_enumerate(seed: int) -> None:
    experts, slots = 6, 4
    random = np.random.default_rng(seed)
    sets = np.sort(random.random((12, experts)).argsort(axis=1)[:, :3], axis=1)
    load = np.bincount(sets.ravel(), minlength=experts) / sets.size
    best = np.inf
    for masks in product((1, 2, 3), repeat=experts):
        held = np.array([[mask & 1, mask >> 1] for mask in masks], dtype=float)
        share = load / held.sum(axis=1) @ held
        if (held.sum(axis=0) <= slots).all() and (share * 2 <= 1.2 + 1e-9).all():
            best = min(best, sum(visits(tuple(masks[e] for e in row), 2, None) for row in sets))
    topology = Topology((0, 1), (slots, slots), resident_tokens=False)
    pairs = np.zeros((experts, experts), dtype=np.float32)
    for row in sets:
        pairs[np.ix_(row, row)] += 1
    least = np.ones(experts, dtype=np.int64)
    problem = LayerProblem(
        load, sets.astype(np.int64), pairs, least, np.zeros_like(least), False, 0, Prices(CAP, CAP), len(sets), 0.2
    )
    found = place_layer(problem, topology)
    masks = tuple(int(mask) for mask in found @ np.array([1, 2]))
    assert sum(visits(tuple(masks[e] for e in row), 2, None) for row in sets) == best
