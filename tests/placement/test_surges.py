"""Experts that surge together: kept apart on shards and nodes where the price of risk says so."""

import numpy as np
import pytest

from moe_placement.solver.place import Surges, spread_surges


def covariance(experts: int, *groups: list[int]) -> np.ndarray:
    """Each group rises and falls as one, by a tenth of the mean load."""
    found = np.zeros((experts, experts))
    for group in groups:
        found[np.ix_(group, group)] = 0.01
    return found


def settled(held: np.ndarray, matrix: np.ndarray, yielding: np.ndarray | None = None) -> tuple[int, list[list[int]]]:
    experts, shards = held.shape
    part, share = np.ones(experts), np.ones(shards)
    idle = np.zeros(experts) if yielding is None else yielding
    made = spread_surges(Surges(part, np.ones(experts), idle, share, matrix, 1.0), held)
    return made, [np.flatnonzero(held[:, g]).tolist() for g in range(shards)]


def test_partners_are_spread_over_the_shards_of_a_node() -> None:
    held = np.zeros((4, 2), dtype=bool)
    held[[0, 1], 0] = held[[2, 3], 1] = True
    made, shards = settled(held, covariance(4, [0, 1], [2, 3]))
    assert made == 1
    assert all(len({0, 1} & set(shard)) == 1 for shard in shards)


def test_what_is_spread_already_stays() -> None:
    held = np.zeros((4, 2), dtype=bool)
    held[[0, 2], 0] = held[[1, 3], 1] = True
    assert settled(held, covariance(4, [0, 1], [2, 3]))[0] == 0


def test_load_is_not_given_up_for_a_small_surge() -> None:
    held = np.zeros((4, 2), dtype=bool)
    held[[0, 1], 0] = held[[2, 3], 1] = True
    part = np.array([2.0, 1.0, 1.5, 1.5])
    made = spread_surges(Surges(part, np.ones(4), np.zeros(4), np.ones(2), covariance(4, [0, 1]) * 1e-6, 1.0), held)
    assert made == 0


def test_a_copy_that_others_can_stand_in_for_goes_where_the_surge_is() -> None:
    held = np.zeros((4, 2), dtype=bool)
    held[[0, 1], 0] = held[[2, 3], 1] = True
    yielding = np.array([0.0, 0.0, 0.5, 0.5])
    matrix = covariance(4, [0], [1], [2], [3]) * 25
    _, shards = settled(held, matrix, yielding)
    assert all(len({2, 3} & set(shard)) == 1 for shard in shards)


@pytest.mark.parametrize("seed", range(5))
def test_slots_and_copies_stay_and_nothing_gets_worse(seed: int) -> None:
    random = np.random.default_rng(seed)
    held = np.zeros((12, 3), dtype=bool)
    held[np.arange(12), np.arange(12) // 4] = True
    factors = random.normal(size=(12, 3)) * 0.1
    matrix = factors @ factors.T
    before = max(np.sqrt(matrix[np.ix_(held[:, g], held[:, g])].sum()) for g in range(3))
    settled(held, matrix)
    assert (held.sum(axis=1) == 1).all() and (held.sum(axis=0) == 4).all()
    assert max(np.sqrt(matrix[np.ix_(held[:, g], held[:, g])].sum()) for g in range(3)) <= before + 1e-12
