"""Topology and cost model: presets, exact times of small cases, and what is refused."""

import numpy as np
import pytest

from moe_placement import Costs, InvalidTopologyError, Topology, h100_nodes, one_host
from moe_placement.cost import LayerTraffic, compute_seconds, layer_seconds, network_seconds


def test_presets() -> None:
    topology = h100_nodes(4, 8, 9)
    assert (topology.shards, topology.nodes, int(topology.slots.sum())) == (32, 4, 288)
    assert topology.share.sum() == pytest.approx(1)
    assert one_host(3, 5).nodes == 1


def test_a_drained_shard_has_no_share() -> None:
    assert h100_nodes(1, 3, 2).with_slots([2, 0, 2]).share.tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shard_slots": (0, 0)}, "no capacity"),
        ({"shard_slots": (1,)}, "must agree"),
        ({"node_of_shard": (0, 2)}, "without gaps"),
        ({"shard_speed": (1.0, float("nan"))}, "finite numbers above 0"),
        ({"spare_slots": -1}, "spare_slots is -1"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    arguments: dict[str, object] = {"node_of_shard": (0, 0), "shard_slots": (1, 1), **change}
    with pytest.raises(InvalidTopologyError, match=message):
        Topology(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_costs_must_be_positive() -> None:
    with pytest.raises(InvalidTopologyError, match="memory_bandwidth is 0"):
        Costs(memory_bandwidth=0)


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
