"""The first placement: exact expectations for small cases, invariants for all others."""

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from moe_placement import (
    InfeasiblePlacementError,
    InvalidStatisticsError,
    Placement,
    balanced_placement,
    h100_nodes,
)
from moe_placement.baselines import POLICIES


@pytest.mark.parametrize(
    ("experts", "shard_slots", "copies", "per_shard"),
    [
        (4, [4], 1, [4]),
        (4, [2, 2], 1, [2, 2]),
        (4, [4, 4], 2, [4, 4]),
        (5, [4, 4], 1, [3, 2]),
        (6, [9, 1, 9], 1, [3, 1, 2]),
        (8, [8, 0, 8], 2, [8, 0, 8]),
        (16, [9, 9, 9, 9], 2, [8, 8, 8, 8]),
    ],
)
def test_copies_per_shard(experts: int, shard_slots: list[int], copies: int, per_shard: list[int]) -> None:
    placement = balanced_placement(1, experts, shard_slots, copies)
    assert placement.held[0].sum(axis=0).tolist() == per_shard


@pytest.mark.parametrize(
    ("experts", "shard_slots", "copies", "message"),
    [
        (4, [4, 4], 0, "min_copies is 0"),
        (4, [4, 0], 2, "2 copies of an expert need 2 shards with slots, there are 1"),
        (8, [3, 3], 1, "need 8 slots per layer, the shards have 6: 2 too few"),
        (4, [9, 1], 2, "the shards have 5: 3 too few"),
    ],
)
def test_infeasible_limits_say_which_and_by_how_much(
    experts: int, shard_slots: list[int], copies: int, message: str
) -> None:
    with pytest.raises(InfeasiblePlacementError, match=message):
        balanced_placement(1, experts, shard_slots, copies)


def feasible(experts: int, shard_slots: list[int], copies: int) -> bool:
    """Gale and Ryser: copies on distinct shards fit if, for each t, t experts' copies find room."""
    limits = [min(n, experts) for n in shard_slots]
    return all(sum(min(n, t) for n in limits) >= t * copies for t in range(1, experts + 1))


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, int, list[int], int]:
    experts = draw(st.integers(1, 24))
    shard_slots = draw(st.lists(st.integers(0, 16), min_size=1, max_size=8))
    copies = draw(st.integers(1, 4))
    assume(sum(n > 0 for n in shard_slots) >= copies)
    assume(sum(min(n, experts) for n in shard_slots) >= experts * copies)
    assume(feasible(experts, shard_slots, copies))
    return draw(st.integers(1, 3)), experts, shard_slots, copies


@given(problems())
def test_every_expert_has_its_copies_on_distinct_shards(problem: tuple[int, int, list[int], int]) -> None:
    layers, experts, shard_slots, copies = problem
    placement = balanced_placement(layers, experts, shard_slots, copies)
    assert (placement.copies == copies).all()
    assert (placement.held.sum(axis=1) <= np.array(shard_slots)).all()
    assert (np.count_nonzero(placement.slots >= 0, axis=1) == experts * copies).all()


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 3))
def test_equal_shards_differ_by_at_most_one_copy(experts: int, shards: int, copies: int) -> None:
    assume(copies <= shards)
    counts = balanced_placement(2, experts, [experts] * shards, copies).held.sum(axis=1)
    assert counts.max() - counts.min() <= 1


@given(problems())
def test_deterministic(problem: tuple[int, int, list[int], int]) -> None:
    assert balanced_placement(*problem) == balanced_placement(*problem)


@given(problems())
def test_kept_as_it_is_when_nothing_changes(problem: tuple[int, int, list[int], int]) -> None:
    layers, experts, shard_slots, copies = problem
    current = balanced_placement(layers, experts, shard_slots, copies)
    assert balanced_placement(layers, experts, shard_slots, copies, current) == current


@given(st.integers(4, 40), st.integers(1, 6), st.integers(1, 2))
def test_an_added_shard_moves_only_what_it_receives(experts: int, shards: int, copies: int) -> None:
    assume(copies <= shards)
    current = balanced_placement(1, experts, [experts] * shards, copies)
    grown = balanced_placement(1, experts, [experts] * (shards + 1), copies, current)
    new_pairs = grown.held.sum() - (grown.held[:, :, :-1] & current.held).sum()
    assert new_pairs <= grown.held[:, :, -1].sum() + 2 * shards  # a shard whose share shrank by rounding passes one on


NODES = st.lists(st.sampled_from("abcd"), min_size=2, max_size=8)


@settings(max_examples=40)
@given(st.integers(1, 20), NODES, st.integers(2, 3), st.integers(0, 20), st.integers(0, 4))
def test_copies_are_on_distinct_nodes_where_there_are_enough(
    experts: int, nodes: list[str], copies: int, slots: int, leaving: int
) -> None:
    """Enough with slots enough: of each node as many as it has, an expert at most once."""
    shard_slots = [slots] * len(nodes)
    room = {node: min(experts, slots * nodes.count(node)) for node in set(nodes)}
    assume(sum(room.values()) >= experts * copies)
    placement = balanced_placement(2, experts, shard_slots, copies, nodes=nodes)
    assert nodes_visited(placement, nodes).min() == copies
    assert placement.copies.min() == copies
    # One that was made without a word of nodes is mended with as few moves as that takes.
    blind = balanced_placement(2, experts, shard_slots, copies)
    mended = balanced_placement(2, experts, shard_slots, copies, blind, nodes)
    assert nodes_visited(mended, nodes).min() == copies
    assert balanced_placement(2, experts, shard_slots, copies, mended, nodes) == mended
    # A shard that ends empty leaves the others apart, if they can be.
    shard_slots[leaving % len(nodes)] = 0
    left = {node: min(experts, sum(n for n, on in zip(shard_slots, nodes, strict=True) if on == node)) for node in room}
    assume(sum(left.values()) >= experts * copies)
    drained = balanced_placement(2, experts, shard_slots, copies, placement, nodes)
    assert nodes_visited(drained, nodes).min() == copies


@settings(max_examples=40)
@given(problems(), st.data())
def test_nodes_never_make_a_placement_impossible(problem: tuple[int, int, list[int], int], data: st.DataObject) -> None:
    layers, experts, shard_slots, copies = problem
    nodes = data.draw(st.lists(st.sampled_from(["", "a", "b"]), min_size=len(shard_slots), max_size=len(shard_slots)))
    placement = balanced_placement(layers, experts, shard_slots, copies, nodes=nodes)
    assert (placement.copies == copies).all()
    assert (placement.held.sum(axis=1) <= np.array(shard_slots)).all()


def nodes_visited(placement: Placement, nodes: list[str]) -> Any:
    """int ``[layers, experts]``: nodes that hold each expert."""
    on = np.array([[node == name for node in nodes] for name in sorted(set(nodes))])
    return (placement.held[:, :, None, :] & on).any(axis=3).sum(axis=2)


def test_what_was_copied_beyond_need_stays_where_slots_are_left() -> None:
    hot = Placement.of([[0, 1, 2, 0, 3, -1, 0, 4, 5, 0, 6, 7]], [3, 3, 3, 3], 8)
    assert balanced_placement(1, 8, [3, 3, 3, 3], 1, hot).held.tolist() == hot.held.tolist()
    drained = balanced_placement(1, 8, [3, 3, 3, 0], 1, hot)
    # The experts of shard 3 find one free slot, and take one of those that the hot expert has beyond need.
    assert (drained.held & hot.held).sum() == 7
    assert drained.copies.tolist() == [[2, 1, 1, 1, 1, 1, 1, 1]]


def test_an_uneven_placement_stays_uneven_when_a_shard_leaves_that_held_nothing() -> None:
    uneven = Placement.of([[0, 1, 2, 3, 4, -1, 5, -1, -1, -1, -1, -1]], [3, 3, 3, 3], 6)
    smaller = balanced_placement(1, 6, [3, 3, 3], 1, uneven)
    assert smaller.slots.tolist() == [[0, 1, 2, 3, 4, -1, 5, -1, -1]]


def test_a_new_shard_gets_its_share_from_those_that_hold_most() -> None:
    uneven = Placement.of([[0, 1, 2, 3, 4, 5, 6, -1, -1, -1, 7, -1, -1, -1, -1]], [5, 5, 5], 8)
    grown = balanced_placement(1, 8, [5, 5, 5, 5], 1, uneven)
    assert grown.held[0].sum(axis=0).tolist() == [3, 2, 1, 2]
    assert (grown.held[:, :, :3] & ~uneven.held).sum() == 0


def test_a_drained_shard_ends_empty_and_others_keep_what_they_hold() -> None:
    current = balanced_placement(2, 16, [16, 16, 16, 16], 2)
    drained = balanced_placement(2, 16, [16, 16, 16, 0], 2, current)
    assert not drained.held[:, :, 3].any()
    kept = (drained.held[:, :, :3] & current.held[:, :, :3]).sum()
    assert kept == current.held[:, :, :3].sum()


def test_a_current_placement_of_another_model_is_ignored() -> None:
    other = balanced_placement(2, 8, [8, 8])
    assert balanced_placement(2, 4, [4, 4], 1, other) == balanced_placement(2, 4, [4, 4])


def test_copies_of_a_lost_shard_are_spread_over_all_others() -> None:
    placement = balanced_placement(8, 32, [16, 16, 16, 16], 2)
    heirs = placement.held[placement.held[:, :, 0]].sum(axis=0)[1:]
    assert heirs.min() > 0


def test_empty_layers_are_a_placement() -> None:
    assert balanced_placement(0, 4, [2, 2]) == Placement(np.zeros((0, 4), dtype=np.int32), (2, 2), 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 4, [2, 2]), "layers is -1"),
        ((1, 0, [2, 2]), "experts is 0"),
        ((1, 2, [4, -2]), r"shard_slots\[1\] is -2"),
        ((1, 2, [2.5]), r"shard_slots\[0\] is 2.5"),
        ((1, 2, [2, 2], 0), "min_copies is 0"),
        ((1, 32768, [40000]), "experts is 32768"),
        ((1, 2, 4), "shard_slots is 4; it must be a list"),
        ((1, 2, [2, 2], 1, 5), "current is 5; it must be of type Placement"),
        ((1, 2, [2, 2], 1, None, ["a"]), "nodes names 1 shards, shard_slots 2"),
    ],
)
def test_sizes_are_whole_numbers(arguments: Any, message: str) -> None:
    with pytest.raises(InfeasiblePlacementError, match=message):
        balanced_placement(*arguments)


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES.keys())
@pytest.mark.parametrize(("load", "found"), [(float("nan"), "nan"), (-1.0, "-1"), (float("inf"), "inf")])
def test_baselines_refuse_loads_that_cannot_be(policy: Any, load: float, found: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=rf"loads\[0, 1\] is {found}"):
        policy(np.array([[1.0, load, 1.0, 1.0]]), h100_nodes(2, 1, 2))
