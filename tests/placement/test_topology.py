"""Topology and cost model: presets, exact times of small cases, and what is refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from moe_placement import Costs, InvalidTopologyError, Topology, h100_nodes, one_host
from moe_placement.cost import LayerTraffic, compute_seconds, layer_seconds, network_seconds


def test_presets() -> None:
    topology = h100_nodes(4, 8, 9)
    assert (topology.shards, topology.nodes, int(topology.slots.sum())) == (32, 4, 288)
    assert topology.share.sum() == pytest.approx(1)
    assert one_host(3, 5).nodes == 1


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((0, 4, 3), "nodes is 0"),
        ((1, 1.5, 3), "gpus_per_node is 1.5"),
        ((2**15, 2**15, 3), "nodes x gpus_per_node is 1073741824"),
    ],
)
def test_presets_have_whole_sizes(size: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(InvalidTopologyError, match=message):
        h100_nodes(*size)
    with pytest.raises(InvalidTopologyError, match="shards is -1"):
        one_host(-1, 3)
    with pytest.raises(InvalidTopologyError, match="hidden is '2'"):
        one_host(1, 3, hidden="2")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidTopologyError, match="costs is 0; it must be of type Costs"):
        h100_nodes(costs=0)  # type: ignore[arg-type]  # wrong on purpose


def test_a_drained_shard_has_no_share() -> None:
    assert h100_nodes(1, 3, 2).with_slots([2, 0, 2]).share.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_slots": (0, 0)}, "no capacity"),
        ({"shard_slots": (1,)}, "must agree"),
        ({"node_of_shard": (0, 2)}, "without gaps"),
        ({"node_of_shard": (0, 0.5)}, r"node_of_shard\[1\] is 0.5; it must be a whole number"),
        ({"shard_slots": (1, -1)}, r"shard_slots\[1\] is -1; it must be a whole number from 0"),
        ({"shard_slots": (1, float("nan"))}, r"shard_slots\[1\] is nan"),
        ({"shard_slots": (1, 2**40)}, r"shard_slots\[1\] is 1099511627776"),
        ({"shard_speed": (1.0, float("nan"))}, r"shard_speed\[1\] is nan; .* must be finite within 1e-06 .. 1e"),
        ({"shard_speed": (1.0, 1e300)}, r"shard_speed\[1\] is 1e\+300"),
        ({"shard_speed": "fast"}, r"shard_speed must be \[shards\]"),
        ({"node_of_shard": 2}, "node_of_shard is 2; it must be a list"),
        ({"shard_slots": "11"}, "shard_slots is '11'; it must be a list"),
        ({"costs": None}, "costs is None; it must be of type Costs"),
        ({"spare_slots": -1}, "spare_slots is -1"),
        (
            {"token_nodes": (0,)},
            "token_nodes says where tokens start, and resident_tokens that",
        ),
        (
            {"token_nodes": (1,), "resident_tokens": False},
            r"token_nodes\[0\] is 1; .* from -1 to 0",
        ),
        ({"resident_tokens": "no"}, "resident_tokens is 'no'; it must be True or False"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"node_of_shard": (0, 0), "shard_slots": (1, 1), **change}
    with pytest.raises(InvalidTopologyError, match=message):
        Topology(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_sequences_become_tuples() -> None:
    """Topologies are keys of the solver's caches."""
    topology = Topology([0, 1], np.array([1, 2]), np.array([1.0, 2.0]))  # type: ignore[arg-type]  # on purpose
    assert topology == Topology((0, 1), (1, 2), (1.0, 2.0))
    assert hash(topology) == hash(Topology((0, 1), (1, 2), (1.0, 2.0)))
    with pytest.raises(InvalidTopologyError, match=r"shard_slots\[0\] is 2.7"):
        topology.with_slots([2.7, 1])  # type: ignore[list-item]  # on purpose


def test_dead_shards_have_no_slots_and_nothing_to_read() -> None:
    topology = Topology((0, 0, 1), (2, 3, 4), dead=[2, 0, 0])  # type: ignore[arg-type]  # on purpose
    assert (topology.dead, topology.shard_slots, topology.alive.tolist()) == ((0, 2), (0, 3, 0), [1])
    assert topology.share.tolist() == [0, 1, 0]
    held = np.ones((1, 1, 3), dtype=bool)
    assert topology.readable(held).tolist() == [[[False, True, False]]]
    assert held.all()
    drained = Topology((0, 0, 1), (0, 3, 4))
    assert drained.readable(held) is held
    assert topology.with_slots((5, 5, 5)).shard_slots == (0, 5, 0)


@pytest.mark.parametrize(
    ("dead", "message"),
    [
        ((2,), r"dead\[0\] is 2; it must be a whole number from 0 to 1"),
        ((-1,), r"dead\[0\] is -1"),
        (1, "dead is 1; it must be a list"),
        ((0, 1), r"no capacity: all shards with slots are dead, dead is \(0, 1\)"),
    ],
)
def test_dead_shards_that_cannot_be(dead: object, message: str) -> None:
    with pytest.raises(InvalidTopologyError, match=message):
        Topology((0, 0), (1, 1), dead=dead)  # type: ignore[arg-type]  # wrong on purpose


def test_a_dead_shard_takes_its_network_card_along() -> None:
    costs = Costs(network_bandwidth=2, latency=1, tokens_per_step=10)
    traffic = LayerTraffic(10, np.ones(1), np.zeros(1, dtype=int), np.zeros(4), np.array([6.0, 0]), np.array([0, 6.0]))
    alive = Topology((0, 0, 1, 1), (1, 1, 1, 1), costs=costs)
    assert network_seconds(traffic, alive, 4) == pytest.approx(1 + 3 * 4 / 2)
    assert network_seconds(traffic, replace(alive, dead=(1,)), 4) == pytest.approx(1 + 6 * 4 / 2)
    assert network_seconds(traffic, replace(alive, dead=(2, 3)), 4) == pytest.approx(1 + 6 * 4 / 2)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("memory_bandwidth", 0, r"memory_bandwidth is 0; it must be a finite number from 1e-12 to 1e\+30"),
        ("latency", -1, r"latency is -1; it must be a finite number from 0 to 1e\+30"),
        ("flops", "x", "flops is 'x'"),
        ("flops", b"1", "flops is b'1'"),
        ("flops", np.ones(1), r"flops is array\(\[1.\]\)"),
        ("flops", True, "flops is True"),
        ("tokens_per_step", float("inf"), "tokens_per_step is inf"),
        ("overlap", "no", "overlap is 'no'; it must be True or False"),
    ],
)
def test_costs_are_numbers(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidTopologyError, match=message):
        Costs(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
    assert Costs(latency=0).latency == 0


def test_layer_seconds_by_hand() -> None:
    costs = Costs(
        bytes_per_expert=10, flop_per_pair=2, dispatch_bytes=4, combine_bytes=8, memory_bandwidth=5, flops=1,
        link_bandwidth=100, network_bandwidth=2, latency=1, launch=3, tokens_per_step=10,
    )  # fmt: skip
    topology = Topology((0, 1), (1, 1), costs=costs)
    traffic = LayerTraffic(
        10, np.array([10.0, 5.0]), np.array([0, 1]), np.zeros(2), np.array([6.0, 2.0]), np.array([2.0, 6.0])
    )
    # 10 pairs x 2 flop on the first shard outweigh reading 10 bytes at 5 per second.
    assert compute_seconds(traffic, topology) == pytest.approx([3 + 20, 3 + 10])
    assert network_seconds(traffic, topology, 4) == pytest.approx(1 + 6 * 4 / 2)
    assert layer_seconds(traffic, topology) == pytest.approx(23 + 13 + 25)
