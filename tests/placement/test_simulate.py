"""The four figures by hand, and baselines on cases with one right answer."""

from typing import Any

import numpy as np
import pytest

from moe_placement import (
    InvalidTraceError,
    MismatchError,
    Placement,
    balanced_placement,
    h100_nodes,
    one_host,
    simulate,
)
from moe_placement.baselines import POLICIES, eplb_global, eplb_hierarchical, largest_first, replicate
from moe_placement.errors import InfeasiblePlacementError


def test_figures_by_hand() -> None:
    topology = h100_nodes(2, 1, 2)
    placement = Placement.of([[0, 1, 2, 3]], topology.shard_slots, 4)
    ids = np.array([[[0, 1]], [[0, 2]], [[0, 1]], [[2, 3]]])  # tokens start on shards 0 1 0 1
    figures = simulate(ids, placement, topology)
    assert figures.fan_out == pytest.approx(5 / 4)
    assert figures.node_fan_out == pytest.approx(1 / 4)
    assert figures.shard_balance == pytest.approx(4 / 5)
    assert figures.node_balance == pytest.approx(4 / 5)


def test_no_traffic_is_balanced() -> None:
    placement = Placement.of([[0, 1]], [1, 1], 2)
    figures = simulate(np.zeros((0, 1, 1), dtype=int), placement, one_host(2, 1))
    assert (figures.shard_balance, figures.fan_out) == (1.0, 0.0)
    assert simulate(np.zeros((3, 1, 0), dtype=int), placement, one_host(2, 1)).fan_out == 0
    assert simulate(np.zeros((3, 0, 1), dtype=int), balanced_placement(0, 2, [1, 1]), one_host(2, 1)).by_layer == ()


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        (np.zeros((3, 2)), InvalidTraceError, r"ids must be \[tokens, layers, k\], got an array of shape \(3, 2\)"),
        (np.zeros((3, 1, 1)), InvalidTraceError, "ids must be integers"),
        (np.zeros((3, 1, 2), dtype=int), InvalidTraceError, "token 0, layer 0: expert 0 is chosen twice"),
        ([[[1]], [[0, 1]]], InvalidTraceError, "ids must be one array"),
        (np.zeros((3, 2, 1), dtype=int), MismatchError, "2 layers, the placement 1"),
        (np.full((3, 1, 1), 9), InvalidTraceError, "ids run from 9 to 9; they must be within -1 .. 1"),
        (np.full((3, 1, 1), -9), InvalidTraceError, "ids run from -9 to -9"),
    ],
)
def test_bad_traces_are_refused(ids: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate(ids, Placement.of([[0, 1]], [1, 1], 2), one_host(2, 1))


def test_a_placement_and_a_topology_are_needed() -> None:
    ids, placement = np.zeros((1, 1, 1), dtype=int), Placement.of([[0, 1]], [1, 1], 2)
    with pytest.raises(MismatchError, match=r"placement is \[\[0, 1\]\]; it must be of type Placement"):
        simulate(ids, [[0, 1]], one_host(2, 1))  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(MismatchError, match="topology is None"):
        simulate(ids, placement, None)  # type: ignore[arg-type]  # wrong on purpose


def test_replication_goes_to_the_highest_load_per_copy() -> None:
    assert replicate(np.array([[8.0, 3.0, 1.0]]), 6).tolist() == [[0, 1, 2, 0, 0, 1]]


def test_largest_first_packs_as_graham_says() -> None:
    placement = largest_first(np.array([[5.0, 4.0, 3.0, 2.0]]), one_host(2, 2))
    assert [placement.holdings(shard) for shard in range(2)] == [{(0, 0), (0, 3)}, {(0, 1), (0, 2)}]


def test_eplb_balances_and_hierarchical_keeps_groups_on_a_node() -> None:
    topology = h100_nodes(2, 2, 3)
    load = np.random.default_rng(0).random((3, 8)) + 0.5
    for placement in (eplb_global(load, topology), eplb_hierarchical(load, topology, groups=4)):
        assert (placement.copies >= 1).all()
    at_node = eplb_hierarchical(load, topology, groups=4).held.reshape(3, 4, 2, 2, 2).any(axis=4)
    assert (at_node.any(axis=2).sum(axis=2) == 1).all()


@pytest.mark.parametrize("name", list(POLICIES))
def test_too_few_slots_are_told(name: str) -> None:
    with pytest.raises(InfeasiblePlacementError, match="8 experts need 8 slots"):
        POLICIES[name](np.ones((1, 8)), one_host(2, 3))
    with pytest.raises(MismatchError, match="topology is None"):
        POLICIES[name](np.ones((1, 8)), None)  # type: ignore[arg-type]  # wrong on purpose
    assert POLICIES[name]([[1, 2]], one_host(2, 1)).layers == 1  # type: ignore[arg-type]  # an array of it is made
