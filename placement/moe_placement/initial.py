"""The placement that loads do not decide: balanced, deterministic, and as near to the one in force as can be.

It is the first, made before any token was seen, and the one after shards came or went. Array arguments are of one
layer: ``held`` bool ``[experts, shards]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_EXPERTS, instance, whole, wholes
from moe_placement.errors import InfeasiblePlacementError
from moe_placement.placement import EMPTY, Placement
from moe_placement.quotas import Room

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


def balanced_placement(
    layers: int,
    experts: int,
    shard_slots: Sequence[int],
    min_copies: int = 1,
    current: Placement | None = None,
    nodes: Sequence[str] = (),
) -> Placement:
    """Give every expert ``min_copies`` copies on distinct shards, with equal numbers of copies on equal shards.

    They are on distinct nodes as well, where there are as many nodes with slots enough.

    Copies that ``current`` already has are kept where the balance allows, so that a change of the number of shards
    moves as little as it can; those beyond ``min_copies`` too, where slots are left. All other slots beyond the wanted
    copies stay empty: filling them well needs routing statistics.

    Args:
        layers: MoE layers of the model; 0 gives a placement of nothing.
        experts: experts per layer.
        shard_slots: slots per layer of each shard; 0 for a shard that must end empty.
        min_copies: copies of every expert, each on a shard of its own.
        current: the placement in force, if any; its shards are matched by index.
        nodes: name of the node of each shard, ``""`` where it is not known; empty: as if there were one node only.

    Raises:
        InfeasiblePlacementError: too few shards for the copies, too few slots, or a size that cannot be.
    """
    layers = whole(InfeasiblePlacementError, "layers", layers)
    experts = whole(InfeasiblePlacementError, "experts", experts, 1, MOST_EXPERTS)
    min_copies = whole(InfeasiblePlacementError, "min_copies", min_copies, 1)
    shard_slots = wholes(InfeasiblePlacementError, "shard_slots", shard_slots)
    if current is not None:
        instance(InfeasiblePlacementError, "current", current, Placement)
    if nodes and len(nodes) != len(shard_slots):
        raise InfeasiblePlacementError(f"nodes names {len(nodes)} shards, shard_slots {len(shard_slots)}")
    _check_feasible(experts, shard_slots, min_copies)
    room = Room.of(shard_slots, nodes, experts, min_copies)
    slots = np.full((layers, sum(shard_slots)), EMPTY, dtype=np.int32)
    for layer in range(layers):
        _fill_slots(slots[layer], _place_layer(room, _current(current, layer, room), layer), shard_slots)
    return Placement(slots, shard_slots, experts)


def _check_feasible(experts: int, shard_slots: Sequence[int], min_copies: int) -> None:
    usable = [min(n, experts) for n in shard_slots if n > 0]
    if len(usable) < min_copies:
        raise InfeasiblePlacementError(
            f"{min_copies} copies of an expert need {min_copies} shards with slots, there are {len(usable)}"
        )
    wanted = experts * min_copies
    if sum(usable) < wanted:
        raise InfeasiblePlacementError(
            f"{experts} experts x {min_copies} copies need {wanted} slots per layer, the shards have "
            f"{sum(usable)}: {wanted - sum(usable)} too few"
        )


def _current(current: Placement | None, layer: int, room: Room) -> Bools:
    """The copies that shards with slots have in ``current``."""
    held = np.zeros((room.experts, len(room.limits)), dtype=bool)
    if current is None or current.experts != room.experts or layer >= current.layers:
        return held
    shards = min(current.shards, len(room.limits))
    held[:, :shards] = current.held_in(layer)[:, :shards]
    held[:, room.limits == 0] = False
    return held


def _place_layer(room: Room, before: Bools, layer: int) -> Bools:
    """The copies of a layer: ``room.copies`` of each expert, and what else of ``before`` there is room for."""
    counted = _counted(room, before)
    quota = room.even(counted.sum(axis=0), before.sum(axis=0), first=layer)
    kept = counted & (np.cumsum(counted, axis=0) <= quota)
    needed = _Dealing(room, kept, before, quota, np.random.default_rng(layer)).complete()
    beyond = np.maximum(before.sum(axis=1) - room.copies, 0)
    return _with_others(needed, before & ~counted, beyond, room.limits)


def _counted(room: Room, before: Bools) -> Bools:
    """Of ``before`` at most ``room.copies`` of each expert, on as many nodes as can be."""
    expert, shard = np.nonzero(before)
    order = np.lexsort(((shard - expert) % len(room.limits), room.node[shard], expert))
    expert, shard = expert[order], shard[order]
    on_node = _rank(expert * len(room.limits) + room.node[shard])
    expert, shard, on_node = (each[on_node < room.most_on_a_node] for each in (expert, shard, on_node))
    order = np.lexsort((on_node, expert))
    expert, shard = expert[order], shard[order]
    counts = _rank(expert) < room.copies
    counted = np.zeros_like(before)
    counted[expert[counts], shard[counts]] = True
    return counted


def _rank(groups: Ints) -> Ints:
    """Of each of sorted numbers: how many equal ones stand before it."""
    return np.arange(len(groups)) - np.searchsorted(groups, groups)


@dataclass(slots=True)
class _Dealing:
    """Completes ``held`` to ``room.copies`` of each expert and ``quota`` copies per shard.

    A flow problem (source - expert - its copies on a node - shard - sink) solved by augmenting paths (Ford and
    Fulkerson, 1956); that the quotas can always be met is said beside them.

    Attributes:
        before: copies that are there, so that they cost nothing.
        order: breaks ties.
    """

    room: Room
    held: Bools
    before: Bools
    quota: Ints
    order: np.random.Generator

    def complete(self) -> Bools:
        room = self.quota - self.held.sum(axis=0)
        for expert in range(len(self.held)):
            for _ in range(self.room.copies - int(self.held[expert].sum())):
                room[self._add_copy(expert, room)] -= 1
        return self.held

    def _add_copy(self, expert: int, room: Ints) -> int:
        """Give ``expert`` one more shard, moving other experts along the shortest path to a shard with ``room``, which
        is returned."""
        # Ties are broken at random (seeded): no fixed pair of shards then shares its experts, and the load of a lost
        # shard falls on all others instead of on one.
        ties = self.order.random(len(room))
        open_to = ~self.held[expert]
        if self.room.keeps_nodes_apart:
            open_to &= (self._on_nodes(np.array([expert]))[0] < self.room.most_on_a_node)[self.room.node]
        free = np.where(open_to, room, 0)
        if (there := free * self.before[expert]).any():
            free = there
        roomiest = int(np.where(free == free.max(), ties, 1.0).argmin())
        if free[roomiest] > 0:
            self.held[expert, roomiest] = True
            return roomiest
        preference = np.lexsort((ties, -room))
        queue: list[int] = preference[open_to[preference]].tolist()
        reached: dict[int, tuple[int, int | None]] = dict.fromkeys(queue, (expert, None))
        for shard in queue:
            if room[shard] > 0:
                self._move_along(reached, shard)
                return shard
            for target, mover in self._movers(shard, preference):
                if target not in reached:
                    reached[target] = (mover, shard)
                    queue.append(target)
        raise InfeasiblePlacementError(f"expert {expert}: no shard has a slot left for another copy")

    def _movers(self, shard: int, targets: Ints) -> list[tuple[int, int]]:
        """Those of ``targets`` that an expert of ``shard`` can move to, each with the first such expert."""
        experts = np.flatnonzero(self.held[:, shard])
        if not len(experts):
            return []
        can_move = ~self.held[np.ix_(experts, targets)]
        if self.room.keeps_nodes_apart:
            node = self.room.node[targets]
            can_move &= (self._on_nodes(experts) < self.room.most_on_a_node)[:, node] | (node == self.room.node[shard])
        some = np.flatnonzero(can_move.any(axis=0))
        return list(zip(targets[some].tolist(), experts[can_move[:, some].argmax(axis=0)].tolist(), strict=True))

    def _move_along(self, reached: dict[int, tuple[int, int | None]], shard: int) -> None:
        """Carry out the path that ends at ``shard``: each expert on it moves in where the next one moved out."""
        target: int | None = shard
        while target is not None:
            mover, source = reached[target]
            self.held[mover, target] = True
            if source is not None:
                self.held[mover, source] = False
            target = source

    def _on_nodes(self, experts: Ints) -> Ints:
        """int64 ``[experts, nodes]``: copies of these experts on each node."""
        nodes = int(self.room.node.max()) + 1
        row, shard = np.nonzero(self.held[experts])
        counts = np.bincount(row * nodes + self.room.node[shard], minlength=len(experts) * nodes)
        return counts.reshape(len(experts), nodes)


def _with_others(needed: Bools, others: Bools, beyond: Ints, limits: Ints) -> Bools:
    """With copies that there were ``beyond`` the needed ones, int64 ``[experts]``, where slots are left: of experts
    with the most of them first, which somebody found to be asked for most."""
    held, left = needed.copy(), limits - needed.sum(axis=0)
    for expert in np.argsort(-beyond, kind="stable")[: np.count_nonzero(beyond)]:
        fitting = np.flatnonzero(others[expert] & ~needed[expert] & (left > 0))[: beyond[expert]]
        held[expert, fitting] = True
        left[fitting] -= 1
    return held


def _fill_slots(row: NDArray[np.int32], held: Bools, shard_slots: Sequence[int]) -> None:
    """Write each shard's experts, in ascending order, into its slots of one layer."""
    begin = 0
    for shard, slots in enumerate(shard_slots):
        experts = np.flatnonzero(held[:, shard])
        row[begin : begin + len(experts)] = experts
        begin += slots
