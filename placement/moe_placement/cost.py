"""The cost model: seconds of one MoE layer and of a move, from counts and a topology.

Computing is a roofline per expert (its weights are read once, or its arithmetic takes longer); the network is the
busiest link of an all-to-all in which a token's vector goes once to each remote node and is passed on inside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.topology import Topology


@dataclass(frozen=True, slots=True)
class LayerTraffic:
    """What one layer's dispatch did, for ``tokens`` tokens.

    Attributes:
        tokens: how many.
        copy_load: float64 ``[copies]``, pairs that each copy served.
        copy_shard: int64 ``[copies]``, the shard that it is on.
        visits: float64 ``[shards]``, tokens that visited each shard over the network inside a node or on from it.
        node_in: float64 ``[nodes]``, vectors that came to each node from others.
        node_out: float64 ``[nodes]``, vectors that left each node for others.
    """

    tokens: float
    copy_load: NDArray[np.float64]
    copy_shard: NDArray[np.int64]
    visits: NDArray[np.float64]
    node_in: NDArray[np.float64]
    node_out: NDArray[np.float64]

    def per_shard(self, of_copy: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 ``[shards]``: the sum over each shard's copies of ``[copies]``."""
        return np.bincount(self.copy_shard, weights=of_copy, minlength=len(self.visits)).astype(np.float64)


def activated(traffic: LayerTraffic, topology: Topology) -> NDArray[np.float64]:
    """Probability ``[copies]`` that any token of a step chooses a copy: 1 - exp(-n), from its n expected pairs."""
    return -np.expm1(-_pairs_of_step(traffic, topology))


def compute_seconds(traffic: LayerTraffic, topology: Topology) -> NDArray[np.float64]:
    """Seconds ``[shards]`` of one step of ``tokens_per_step`` tokens: launch + sum over copies of the roofline.

    A copy's weights are read if any token of the step chooses it.
    """
    costs = topology.costs
    read = activated(traffic, topology) * (costs.bytes_per_expert / costs.memory_bandwidth)
    arithmetic = _pairs_of_step(traffic, topology) * (costs.flop_per_pair / costs.flops)
    busy = traffic.per_shard(np.maximum(read, arithmetic))
    return np.asarray(costs.launch + busy / np.asarray(topology.shard_speed), dtype=np.float64)


def _pairs_of_step(traffic: LayerTraffic, topology: Topology) -> NDArray[np.float64]:
    return traffic.copy_load * (topology.costs.tokens_per_step / traffic.tokens if traffic.tokens else 0.0)


def network_seconds(traffic: LayerTraffic, topology: Topology, vector_bytes: float) -> float:
    """Seconds of one all-to-all of a step: latency + the busiest of NIC out, NIC in and link inside a node.

    Vectors between nodes spread evenly over the NICs of a node (rail-aligned); dispatch and combine differ in bytes.
    """
    costs = topology.costs
    scale = costs.tokens_per_step / traffic.tokens if traffic.tokens else 0.0
    nics = np.maximum(np.bincount(topology.node_index[topology.alive], minlength=topology.nodes), 1)
    busiest_nic = max((traffic.node_in / nics).max(), (traffic.node_out / nics).max())
    seconds = max(busiest_nic / costs.network_bandwidth, traffic.visits.max(initial=0) / costs.link_bandwidth)
    return float(costs.latency + scale * vector_bytes * seconds)


def layer_seconds(traffic: LayerTraffic, topology: Topology) -> float:
    """Modelled seconds of one layer and step: slowest shard + dispatch + combine, or their maximum if overlapped."""
    compute = float(compute_seconds(traffic, topology).max())
    network = network_seconds(traffic, topology, topology.costs.dispatch_bytes)
    network += network_seconds(traffic, topology, topology.costs.combine_bytes)
    return max(compute, network) if topology.costs.overlap else compute + network
