"""From copies to slots and back: what must be repaired in a current placement, how many copies each layer may make,
and which slot each copy is written into.

Array arguments: held bool ``[layers, experts, shards]``, or of one layer ``[experts, shards]``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.errors import InfeasiblePlacementError
from moe_placement.initial import balanced_placement
from moe_placement.placement import EMPTY, Placement
from moe_placement.solver.constants import UNLIMITED
from moe_placement.solver.place import fill
from moe_placement.topology import Topology

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def repaired(before: Bools, topology: Topology, min_copies: int, load: Floats, allowed: int | None) -> Bools:
    """The current placement with as few repairs as the hard limits need: copies on live shards, in their slots; and as
    far as ``allowed`` new copies go, on nodes of their own.
    """
    held = before.copy()
    held[:, :, topology.slots == 0] = False
    layers, experts = load.shape
    need = np.full(experts, min_copies, dtype=np.int64)
    share = np.where(topology.share > 0, topology.share, 0.0)
    for layer in range(layers):
        short = (held[layer].sum(axis=1) < min_copies).any() or (held[layer].sum(axis=0) > topology.slots).any()
        if short and fill(load[layer], held[layer], need, topology.slots, share):
            held[layer] = balanced_placement(1, experts, topology.shard_slots, min_copies).held[0]
    left = UNLIMITED if allowed is None else allowed - int((held & ~before).sum())
    for layer in range(layers):
        left -= spread_over_nodes(held[layer], topology, min_copies, left)
    return held


def budgets(allowed: int | None, repaired: Bools | None, before: Bools | None, layers: int) -> NDArray[np.int64]:
    """New copies that each layer may make beyond the repairs it needs, int64 ``[layers]``."""
    if allowed is None or repaired is None or before is None:
        return np.full(layers, UNLIMITED, dtype=np.int64)
    repairs = int((repaired & ~before).sum())
    if repairs > allowed:
        raise InfeasiblePlacementError(
            f"{repairs} copies must be made to serve every expert, the limits allow {allowed}: {repairs - allowed} "
            "too few; raise max_moved_slots or max_moved_bytes"
        )
    bounds = np.linspace(0, allowed - repairs, layers + 1).astype(np.int64)
    return np.diff(bounds)


def written(held: Bools, topology: Topology, current: Placement | None) -> Placement:
    """``held`` in slots: the current placement itself where nothing differs."""
    if current is not None and current.shard_slots == topology.shard_slots and (held == current.held).all():
        return current
    return _into_slots(held, topology, current)


def _into_slots(held: Bools, topology: Topology, current: Placement | None) -> Placement:
    """Write copies into slots; those that a shard has already keep theirs, so that only real moves show."""
    layers, experts, shards = held.shape
    slots = np.full((layers, int(topology.slots.sum())), EMPTY, dtype=np.int32)
    left = held.copy()
    if current is not None:
        _keep(current, topology, slots, left)
    # The others in ascending order into what is empty; both lists go layer by layer and shard by shard.
    group, expert = np.divmod(np.flatnonzero(np.ascontiguousarray(left.transpose(0, 2, 1))), experts)
    empty = np.flatnonzero(slots == EMPTY)
    shard_of_slot = np.repeat(np.arange(shards), topology.slots)
    empty_group = empty // slots.shape[1] * shards + shard_of_slot[empty % slots.shape[1]]
    rank = np.arange(len(group)) - _first_of_each(group, layers * shards)[group]
    slots.ravel()[empty[_first_of_each(empty_group, layers * shards)[group] + rank]] = expert
    return Placement(slots, topology.shard_slots, experts)


def _first_of_each(group: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """int64 ``[groups]``: where each group begins in a list that is sorted by them."""
    count = np.bincount(group, minlength=groups)
    return np.asarray(np.cumsum(count) - count, dtype=np.int64)


def _keep(current: Placement, topology: Topology, slots: NDArray[np.int32], left: Bools) -> None:
    """Write copies that are in ``current`` into the slots they have there, and take them out of ``left``."""
    layers = np.arange(len(slots))
    begins, old = (np.concatenate([[0], np.cumsum(widths)]) for widths in (topology.slots, current.shard_slots))
    for shard in range(min(topology.shards, current.shards)):
        for position in range(min(int(topology.slots[shard]), current.shard_slots[shard])):
            expert = current.slots[:, old[shard] + position]
            kept = layers[(expert != EMPTY) & left[layers, expert, shard]]
            slots[kept, begins[shard] + position] = expert[kept]
            left[kept, expert[kept], shard] = False


def copies_by_node(held: Bools, topology: Topology) -> NDArray[np.int64]:
    """int64 ``[experts, nodes]``: copies that each expert has on each node, for ``held`` bool ``[experts, shards]``."""
    at = [held[:, topology.node_index == node].sum(axis=1) for node in range(topology.nodes)]
    return np.stack(at, axis=1).astype(np.int64)


def spread_over_nodes(held: Bools, topology: Topology, min_copies: int, limit: int) -> int:
    """Trade copies until every expert is on ``min_copies`` nodes, as far as single trades get there; returns how many
    copies moved, at most ``limit``.

    ``held`` bool ``[experts, shards]`` is changed; shards keep their numbers of copies, unless they have room for one.
    No trade takes another expert off a node that it needs.
    """
    if min_copies == 1:
        return 0
    wanted = min(min_copies, len(np.unique(topology.node_index[topology.slots > 0])))
    on = copies_by_node(held, topology)
    moved = 0
    for expert in np.flatnonzero((on > 0).sum(axis=1) < wanted):
        while (on[expert] > 0).sum() < wanted and moved + 2 <= limit:
            copies = _trade(int(expert), held, on, topology, wanted)
            if not copies:
                break
            moved += copies
    return moved


def _trade(expert: int, held: Bools, on: NDArray[np.int64], topology: Topology, wanted: int) -> int:
    """Take one copy to a node that has none, and what was there to where it came from; the copies that moved."""
    node, slots = topology.node_index, topology.slots
    spread = (on > 0).sum(axis=1)
    for source in np.flatnonzero(held[expert] & (on[expert, node] > 1)):
        for target in np.flatnonzero((on[expert, node] == 0) & (slots > 0)):
            here, there = node[source], node[target]
            other = -1
            if held[:, target].sum() >= slots[target]:
                movable = held[:, target] & ~held[:, source]
                # It stays on as many nodes as it needs: another copy is on the target's node, or it comes to a new one.
                fine = (on[:, there] > 1) | (on[:, here] == 0) | (spread > wanted)
                candidates = np.flatnonzero(movable & fine)
                if not len(candidates):
                    continue
                other = int(candidates[0])
            for mover, begin, end in ((expert, source, target), (other, target, source)):
                if mover >= 0:
                    held[mover, begin], held[mover, end] = False, True
                    on[mover, node[begin]] -= 1
                    on[mover, node[end]] += 1
            return 1 if other < 0 else 2
    return 0
