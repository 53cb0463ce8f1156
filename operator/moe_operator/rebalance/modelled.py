"""What runs as the brain models it: which shards share a node, what a step costs there, what a move takes. Pure.

Speeds are those of processes on CPUs in round figures (as of ``moe_placement.topology.one_host``): 14 GB/s of memory
and 50 GFLOP/s of one core, 40 us per layer through sockets. All rows go out of one attention process and come back to
it, which copies 5 GB/s to shards beside it, and has a link of 10 Gb/s to those on other nodes; so each shard has its
part of that. Only how the parts of a step compare matters to a plan; the price of a move is in real bytes and seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from moe_placement.topology import Costs, Topology

_FLOAT_BYTES = 4.0
"""Rows travel as 32-bit floats."""
_MEMORY, _FLOPS, _COPIED, _LINK = 14e9, 50e9, 5e9, 1.25e9
_LATENCY, _LAUNCH = 40e-6, 20e-6
_SLIM = 1.5
"""Width of a model / root of an expert's weights: 1.4 of the tiny one, 1.6 of Qwen3-30B-A3B, 1.9 of DeepSeek-V3."""
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}


def topology_of(
    nodes: Sequence[str], shard_slots: Sequence[int], bytes_per_expert: float, dtype: str, rows_per_step: float
) -> Topology:
    """The shards of one deployment.

    Args:
        nodes: of each shard, by name.
        shard_slots: per layer.
        bytes_per_expert: of one layer.
        dtype: of the weights, as ``ModelFacts`` names it.
        rows_per_step: tokens that go through a layer together, over all attention replicas.
    """
    names = list(dict.fromkeys(nodes))
    weights = bytes_per_expert / _WEIGHT_BYTES.get(dtype, 4.0)
    row = _FLOAT_BYTES * _SLIM * math.sqrt(weights / 3)
    costs = Costs(
        bytes_per_expert=bytes_per_expert, flop_per_pair=2 * weights, dispatch_bytes=row, combine_bytes=row,
        memory_bandwidth=_MEMORY, flops=_FLOPS, link_bandwidth=_COPIED / len(nodes),
        network_bandwidth=_LINK / len(nodes), latency=_LATENCY, launch=_LAUNCH, tokens_per_step=max(rows_per_step, 1.0),
    )  # fmt: skip
    # Attention is a process of its own; where it runs beside shards, their node is one less to be reached.
    return Topology(tuple(map(names.index, nodes)), tuple(shard_slots), resident_tokens=False, costs=costs)


def as_moves_have_it(topology: Topology) -> Topology:
    """The same with links as copies of experts have them, which go from shard to shard."""
    return replace(topology, costs=replace(topology.costs, link_bandwidth=_COPIED, network_bandwidth=_LINK))
