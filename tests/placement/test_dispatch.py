"""Replica choice: the order of preference case by case, and what always holds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import MismatchError, Placement, balanced_placement, dispatch, h100_nodes
from moe_placement.dispatch import choose_copies, copies_of, layer_copies


def held(shards: int, *experts: list[int]) -> np.ndarray:
    table = np.zeros((len(experts), shards), dtype=bool)
    for expert, on in enumerate(experts):
        table[expert, on] = True
    return table


@pytest.mark.parametrize(
    ("experts", "ids", "home", "chosen"),
    [
        # Two nodes of two shards: 0 1 | 2 3.
        ([[3], [0, 3]], [0, 1], 0, [3, 0]),  # the home shard is visited anyway, so is shard 3: least loaded of both
        ([[2], [0, 2]], [0, 1], None, [2, 2]),  # a visited shard before any other
        ([[2], [0, 3]], [0, 1], None, [2, 3]),  # then a visited node
        ([[0, 2]], [0], 3, [2]),  # the home node needs no network
        ([[0], [-1 % 4]], [0, -1], None, [0, 4]),  # no expert: no shard
    ],
)
def test_preferences(experts: list[list[int]], ids: list[int], home: int | None, chosen: list[int]) -> None:
    copies = copies_of(held(4, *experts), h100_nodes(2, 2, 2))
    where = None if home is None else np.array([home])
    found = choose_copies(np.array([ids]), copies, where)[0].tolist()
    if experts == [[3], [0, 3]]:
        assert found[0] == 3 and found[1] in (0, 3)
    else:
        assert found == chosen


def test_one_node_that_covers_two_experts_beats_two_nodes() -> None:
    copies = copies_of(held(6, [0, 4], [2, 5]), h100_nodes(3, 2, 2))
    assert choose_copies(np.array([[0, 1]]), copies)[0].tolist() == [4, 5]


def test_free_choices_spread_over_copies() -> None:
    copies = copies_of(held(4, [0, 1, 2, 3]), h100_nodes(1, 4, 1))
    counts = np.bincount(choose_copies(np.zeros((4000, 1), dtype=int), copies)[:, 0], minlength=4)
    assert counts.max() <= 1.1 * counts.mean()


def test_a_loaded_shard_is_avoided() -> None:
    copies = copies_of(held(2, [0, 1]), h100_nodes(1, 2, 1))
    chosen = choose_copies(np.zeros((100, 1), dtype=int), copies, load=np.array([1e6, 0.0]))
    assert (chosen == 1).all()


@pytest.mark.parametrize(("surplus", "chosen"), [(0.0, 2), (1000.0, 3)])
def test_a_visited_shard_that_is_much_fuller_is_left_alone(surplus: float, chosen: int) -> None:
    copies = copies_of(held(4, [2], [2, 3]), h100_nodes(2, 2, 2))
    load = np.array([4000.0, 4000.0, 4000.0 + surplus, 4000.0])
    assert choose_copies(np.array([[0, 1]]), copies, load=load)[0].tolist() == [2, chosen]


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2))
@settings(max_examples=40)
def test_every_pair_goes_to_a_shard_that_holds_it(seed: int, nodes: int, gpus: int, copies: int) -> None:
    topology = h100_nodes(nodes, gpus, 8)
    placement = balanced_placement(1, 8, topology.shard_slots, min(copies, topology.shards))
    random = np.random.default_rng(seed)
    ids = random.random((64, 8)).argsort(axis=1)[:, :3]
    chosen = choose_copies(ids, layer_copies(placement, topology, 0), random.integers(topology.shards, size=64))
    assert placement.held[0][ids, chosen].all()


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 4), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_kernel_chooses_alike(seed: int, nodes: int, gpus: int, resident: bool, loaded: bool) -> None:
    random = np.random.default_rng(seed)
    topology = h100_nodes(nodes, gpus, 8)
    experts, tokens = int(random.integers(4, 32)), int(random.integers(1, 2500))
    held = random.random((experts, topology.shards)) < random.choice([0.1, 0.3, 0.6])
    held[np.arange(experts), random.integers(topology.shards, size=experts)] = True
    ids = random.random((tokens, experts)).argsort(axis=1)[:, : random.integers(1, 5)]
    ids[random.random(ids.shape) < 0.05] = dispatch.NO_EXPERT
    home = random.integers(topology.shards, size=tokens) if resident else None
    load = random.integers(0, 3000, size=topology.shards).astype(float) if loaded else None
    fast = choose_copies(ids, copies_of(held, topology), home, load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dispatch, "_kernel", lambda: None)
        slow = choose_copies(ids, copies_of(held, topology), home, load)
    assert (fast == slow).all()


def test_another_cluster_is_refused() -> None:
    with pytest.raises(MismatchError, match="2 shards, the topology 4"):
        layer_copies(Placement.of([[0, 1]], [1, 1], 2), h100_nodes(1, 4, 1), 0)


@pytest.mark.parametrize("layer", [1, -1, 0.5])
def test_another_layer_is_refused(layer: Any) -> None:
    with pytest.raises(MismatchError, match=f"layer is {layer}; it must be a whole number from 0 to 0"):
        layer_copies(Placement.of([[0, 1]], [1, 1], 2), h100_nodes(1, 2, 1), layer)
