"""Copies of an expert on nodes of their own, where a placement was made without regard to nodes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.topology import Topology

Bools = NDArray[np.bool_]


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
