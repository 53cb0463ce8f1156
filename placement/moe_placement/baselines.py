"""The placements others make, written from their descriptions: what the solver is compared with.

- round robin: expert e on shard e mod shards, further copies in turn; what most engines start with.
- largest first: no copies beyond need; the heaviest expert to the emptiest shard (Graham's LPT, 1969).
- EPLB: DeepSeek's expert-parallel load balancer as its README describes it: replicate the expert with the highest load
  per copy until all slots are used, then pack copies largest first into equal bins. *Global* ignores nodes;
  *hierarchical* first packs groups of experts onto nodes, and replicates and packs inside each node.

All are vectorised over layers. They know loads only, and raise ``InvalidStatisticsError`` where these are not
``[layers, experts]``, finite and not negative, ``InfeasiblePlacementError`` where the slots do not hold all experts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import instance, loads, whole
from moe_placement.errors import InfeasiblePlacementError, InvalidStatisticsError, MismatchError
from moe_placement.placement import Placement
from moe_placement.topology import Topology

Loads = NDArray[np.float64]
Ints = NDArray[np.int64]


def round_robin(load: Loads, topology: Topology) -> Placement:
    """Experts in order of their number; uneven shards are filled in turn as far as they have slots."""
    layers, experts = _checked(load, topology).shape
    turn = np.lexsort((topology_shard_of_slot(topology), _rank_in_shard(topology)))
    slots = np.empty((layers, int(topology.slots.sum())), dtype=np.int32)
    slots[:, turn] = np.arange(slots.shape[1]) % experts
    return Placement(slots, topology.shard_slots, experts)


def largest_first(load: Loads, topology: Topology) -> Placement:
    """One copy of each expert, heaviest first, each to the shard with the least load for its speed."""
    load = _checked(load, topology)
    layers, experts = load.shape
    of_item = np.broadcast_to(np.arange(experts), (layers, experts))
    return _pack_into_slots(load, of_item, topology, experts)


def eplb_global(load: Loads, topology: Topology) -> Placement:
    """EPLB's global policy: replicate over all slots, then pack, without regard to nodes."""
    load = _checked(load, topology)
    of_item = replicate(load, int(topology.slots.sum()))
    return _pack_into_slots(_per_copy(load, of_item), of_item, topology, load.shape[1])


def eplb_hierarchical(load: Loads, topology: Topology, groups: int | None = None) -> Placement:
    """EPLB's hierarchical policy: groups of neighbouring experts to nodes, then each node on its own.

    Args:
        load: ``[layers, experts]``.
        topology: equal nodes of equal shards.
        groups: of experts with neighbouring numbers; a multiple of the nodes. Default: twice the nodes.

    Raises:
        MismatchError: experts or groups do not divide, or nodes are not equal.
    """
    load = _checked(load, topology)
    (layers, experts), nodes = load.shape, topology.nodes
    groups = 2 * nodes if groups is None else whole(MismatchError, "groups", groups, 1)
    per_node = topology.per_node(topology.slots.astype(np.float64))
    if experts % groups or groups % nodes or len(set(per_node)) != 1 or (np.diff(topology.node_index) < 0).any():
        raise MismatchError(
            f"hierarchical needs equal nodes and dividing groups: {experts} experts, {groups} groups, {nodes} nodes"
        )
    size = experts // groups
    of_group = load.reshape(layers, groups, size).sum(axis=2)
    node_of_group = pack(of_group, np.full(nodes, groups // nodes), np.full(nodes, 1 / nodes))
    members = np.argsort(node_of_group, axis=1, kind="stable")
    ids = (members[:, :, None] * size + np.arange(size)).reshape(layers, nodes, experts // nodes)
    rows = []
    for node in range(nodes):
        shards = np.flatnonzero(topology.node_index == node)
        inner = Topology((0,) * len(shards), tuple(topology.slots[shards].tolist()))
        local = np.take_along_axis(load, ids[:, node], axis=1)
        placed = eplb_global(local, inner).slots
        rows.append(np.take_along_axis(ids[:, node], placed.astype(np.int64), axis=1))
    return Placement(np.concatenate(rows, axis=1).astype(np.int32), topology.shard_slots, experts)


POLICIES: dict[str, Callable[[Loads, Topology], Placement]] = {
    "round-robin": round_robin,
    "largest-first": largest_first,
    "eplb-global": eplb_global,
    "eplb-hierarchical": eplb_hierarchical,
}


def replicate(load: Loads, slots: int) -> Ints:
    """int64 ``[layers, slots]``: expert of each copy; every further copy goes to the highest load per copy."""
    layers, experts = load.shape
    rows = np.arange(layers)
    copies = np.ones((layers, experts))
    extra = np.empty((layers, slots - experts), dtype=np.int64)
    for number in range(slots - experts):
        extra[:, number] = (load / copies).argmax(axis=1)
        copies[rows, extra[:, number]] += 1
    return np.concatenate([np.broadcast_to(np.arange(experts), (layers, experts)), extra], axis=1)


def pack(weight: Loads, room: Ints, share: Loads) -> Ints:
    """int64 ``[layers, items]``: bin of each item, heaviest first to the bin with the least load for its share."""
    layers, items = weight.shape
    rows = np.arange(layers)
    order = np.argsort(-weight, axis=1, kind="stable")
    filled, free = np.zeros((layers, len(room))), np.broadcast_to(room, (layers, len(room))).copy()
    share = np.where(room > 0, share, 1.0)
    bins = np.empty((layers, items), dtype=np.int64)
    for position in range(items):
        item = order[:, position]
        target = np.where(free > 0, filled / share, np.inf).argmin(axis=1)
        bins[rows, item] = target
        filled[rows, target] += weight[rows, item]
        free[rows, target] -= 1
    return bins


def _per_copy(load: Loads, of_item: Ints) -> Loads:
    layers, experts = load.shape
    copies = np.zeros((layers, experts))
    np.add.at(copies, (np.arange(layers)[:, None], of_item), 1)
    return np.asarray(np.take_along_axis(load / np.maximum(copies, 1), of_item, axis=1), dtype=np.float64)


def _pack_into_slots(weight: Loads, of_item: Ints, topology: Topology, experts: int) -> Placement:
    layers = len(weight)
    bins = pack(weight, topology.slots, topology.share)
    slots = np.full((layers, int(topology.slots.sum())), -1, dtype=np.int32)
    order = np.argsort(bins, axis=1, kind="stable")
    sorted_bins = np.take_along_axis(bins, order, axis=1)
    begin = np.concatenate([[0], np.cumsum(topology.slots)[:-1]])
    first = np.stack([np.searchsorted(row, np.arange(topology.shards)) for row in sorted_bins])
    position = np.arange(weight.shape[1]) - np.take_along_axis(first, sorted_bins, axis=1)
    target = begin[sorted_bins] + position
    slots[np.arange(layers)[:, None], target] = np.take_along_axis(of_item, order, axis=1)
    return Placement(slots, topology.shard_slots, experts)


def topology_shard_of_slot(topology: Topology) -> Ints:
    """int64 ``[total_slots]``."""
    return np.repeat(np.arange(topology.shards), topology.slots)


def _rank_in_shard(topology: Topology) -> Ints:
    return np.concatenate([np.arange(n) for n in topology.shard_slots])


def _checked(load: Loads, topology: Topology) -> Loads:
    """float64 ``[layers, experts]``, for whose experts there is room."""
    array = loads(InvalidStatisticsError, load)
    instance(MismatchError, "topology", topology, Topology)
    experts, room = array.shape[1], int(topology.slots.sum())
    if room < experts:
        raise InfeasiblePlacementError(f"{experts} experts need {experts} slots per layer, the topology has {room}")
    return array
