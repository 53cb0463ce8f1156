"""What runs as the brain models it: which shards share a node, what a step costs there, what a move takes. Pure.

Speeds are those of processes on CPUs in round figures (as of ``moe_placement.topology.one_host``): 14 GB/s of memory
and 50 GFLOP/s of one core, 40 us per layer through sockets. All rows go out of one attention process and come back to
it, which copies 5 GB/s to shards beside it, and reaches those on other nodes by its node's link, as fast as
``spec.rebalance.linkBytesPerSecond`` says; so each shard has its part of that, which is more where there are fewer
nodes to be reached. Only how the parts of a step compare matters to a plan; the price of a move is in real bytes and
seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from moe_placement.migration.schedule import CHECKPOINT, Migration, Round, Transfer
from moe_placement.solver import Plan
from moe_placement.topology import Costs, Topology

_FLOAT_BYTES = 4.0
"""Rows travel as 32-bit floats."""
_MEMORY, _FLOPS, _COPIED = 14e9, 50e9, 5e9
_LATENCY, _LAUNCH = 40e-6, 20e-6
_SLIM = 1.5
"""Width of a model / root of an expert's weights: 1.4 for the tiny model, 1.6 for Qwen3-30B-A3B, 1.9 for
DeepSeek-V3."""
_WEIGHT_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "FP8": 1.0}


def topology_of(
    nodes: Sequence[str],
    shard_slots: Sequence[int],
    bytes_per_expert: float,
    dtype: str,
    rows_per_step: float,
    link: float,
    attention: Sequence[str] = (),
) -> Topology:
    """The shards of one deployment.

    Args:
        nodes: of each shard, by name.
        shard_slots: per layer.
        bytes_per_expert: of one layer.
        dtype: of the weights as they are held, as ``ModelFacts`` names it, or FP8.
        rows_per_step: tokens that go through a layer together.
        link: bytes a second of a node's link to others, each way.
        attention: the node of each attention replica, by name; empty where that is not known.
    """
    names = list(dict.fromkeys(nodes))
    homes = tuple(names.index(name) if name in names else -1 for name in attention)
    # Vectors go out by one link; what comes to each of the nodes that are reached by it is counted.
    reached = len(names) - sum(home >= 0 for home in homes) / max(len(homes), 1)
    weights = bytes_per_expert / _WEIGHT_BYTES.get(dtype, 4.0)
    row_bytes = _FLOAT_BYTES * _SLIM * math.sqrt(weights / 3)
    network = link / len(nodes) * len(names) / max(reached, 1.0)
    costs = Costs(
        bytes_per_expert=bytes_per_expert, flop_per_pair=2 * weights, dispatch_bytes=row_bytes, combine_bytes=row_bytes,
        memory_bandwidth=_MEMORY, flops=_FLOPS, link_bandwidth=_COPIED / len(nodes),
        network_bandwidth=network, latency=_LATENCY, launch=_LAUNCH, tokens_per_step=max(rows_per_step, 1.0),
    )  # fmt: skip
    return Topology(
        tuple(map(names.index, nodes)), tuple(shard_slots), resident_tokens=False, costs=costs, token_nodes=homes
    )


def straight_to(plan: Plan, link: float) -> Migration:
    """All copies that a plan asks for at once, each from the shard on the same node that gives fewest, or else from
    another node: what the busiest link carries, at ``link`` bytes a second between nodes, is what any order of them
    takes at least.

    In which order they really come is the directory's affair; the brain's ``plan_migration``, which finds rounds for
    them, takes longer than all else for tens of thousands of copies.
    """
    topology, node = plan.topology, plan.topology.node_index
    given = np.zeros(topology.shards)
    transfers = []
    for layer, expert, target in np.argwhere(plan.moved).tolist():
        holders = np.flatnonzero(plan.current.held[layer, expert]) if plan.current else np.zeros(0, dtype=np.int64)
        near = holders[node[holders] == node[target]]
        among = near if len(near) else holders
        source = int(among[given[among].argmin()]) if len(among) else CHECKPOINT
        if source != CHECKPOINT:
            given[source] += 1
        transfers.append(Transfer(layer, expert, source, target))
    return _at_once(tuple(transfers), topology, link)


def _at_once(transfers: tuple[Transfer, ...], topology: Topology, link: float) -> Migration:
    size, node = topology.costs.bytes_per_expert, topology.node_index
    got, given, got_from_far, given_to_far = np.zeros((4, topology.shards))
    for each in transfers:
        got[each.target] += size
        far = each.source == CHECKPOINT or node[each.source] != node[each.target]
        got_from_far[each.target] += far * size
        if each.source != CHECKPOINT:
            given[each.source] += size
            given_to_far[each.source] += far * size
    # Shards of one node share its link to others.
    links = [topology.per_node(side).max(initial=0) / link for side in (got_from_far, given_to_far)]
    shards = [side.max(initial=0) / _COPIED for side in (got, given)]
    return Migration((Round(transfers, ()),) if transfers else (), True, float(max(*links, *shards)), got, given)
