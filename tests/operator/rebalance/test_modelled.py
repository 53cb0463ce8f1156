"""What runs as the brain models it, and what a move takes there."""

from __future__ import annotations

import pytest

from moe_operator.rebalance.modelled import straight_to, topology_of
from moe_placement import Placement, RoutingStatistics, Topology
from moe_placement.expected import figures_on
from moe_placement.solver import Plan

SIZE = 125_000_000.0
"""Bytes of an expert: 0.1 s of a link of 10 Gb/s, 25 ms of a copy inside a node."""
LINK = 1.25e9


def topology(nodes: str) -> Topology:
    return topology_of(list(nodes), (2,) * len(nodes), SIZE, "float32", 8.0, LINK)


def plan(before: str, after: str, nodes: str) -> Plan:
    there = topology(nodes)
    old, new = (Placement.from_strings([text], (2,) * len(nodes), 4) for text in (before, after))
    figures = figures_on(RoutingStatistics.of_loads([[1.0] * 4]), new, there)
    return Plan(new, old, there, old, figures, figures, (), 0.0)


@pytest.mark.parametrize(
    ("after", "nodes", "copies", "seconds", "got"),
    [
        ("0 1 2 3", "ab", 0, 0.0, [0, 0]),
        ("0 2 1 3", "aa", 2, 0.025, [1, 1]),  # each shard gives one and gets one, inside the node
        ("0 2 1 3", "ab", 2, 0.1, [1, 1]),  # each node gives one and gets one
        ("2 3 0 1", "ab", 4, 0.2, [2, 2]),
        ("2 3 0 1", "aa", 4, 0.05, [2, 2]),
    ],
)
def test_a_move_takes_what_the_busiest_link_carries(
    after: str, nodes: str, copies: int, seconds: float, got: list[int]
) -> None:
    move = straight_to(plan("0 1 2 3", after, nodes), LINK)
    assert move.transfers == copies
    assert move.seconds == pytest.approx(seconds)
    assert (move.bytes_in / SIZE).tolist() == got


def test_copies_come_from_the_same_node_where_one_is_there() -> None:
    """And from the shard of it that gives fewest: links between nodes carry nothing."""
    move = straight_to(plan("0 1 2 3 0 1 2 3", "0 2 2 3 0 1 1 3", "aabb"), LINK)
    assert [(each.expert, each.source, each.target) for each in move.rounds[0].transfers] == [(1, 2, 3), (2, 1, 0)]
    assert move.seconds == pytest.approx(0.025)


def test_shards_of_one_node_share_its_link() -> None:
    move = straight_to(plan("0 1 2 3 0 1 2 3", "0 1 2 3 0 1 2 3", "aabb"), LINK)
    assert move.transfers == 0
    there = plan("0 1 0 1 2 3 2 3", "2 1 3 1 2 3 2 0", "aabb")
    assert straight_to(there, LINK).seconds == pytest.approx(0.2)  # two copies into the first node, one into the other
    assert straight_to(there, LINK / 50).seconds == pytest.approx(10.0)


def test_nodes_are_numbered_as_they_are_met() -> None:
    there = topology("baab")
    assert there.node_of_shard == (0, 1, 1, 0)
    assert there.costs.network_bandwidth * 4 == pytest.approx(1.25e9)


@pytest.mark.parametrize(
    ("attention", "homes", "reached"),
    [((), (), 2), (("b",), (1,), 1), (("c",), (-1,), 2), (("a", "c"), (0, -1), 1.5), (("a", "b"), (0, 1), 1)],
)
def test_where_attention_runs_is_a_node_less_to_be_reached(
    attention: tuple[str, ...], homes: tuple[int, ...], reached: float
) -> None:
    """Whatever nodes its link leads to, as many vectors go over it in a second."""
    there = topology_of(list("aabb"), (2,) * 4, SIZE, "float32", 8.0, LINK, attention)
    assert there.token_nodes == homes
    assert there.costs.network_bandwidth * 4 * reached / 2 == pytest.approx(1.25e9)
