"""The first placement: balanced and deterministic, made before any token was seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_EXPERTS, instance, whole, wholes
from moe_placement.errors import InfeasiblePlacementError
from moe_placement.placement import EMPTY, Placement


def balanced_placement(
    layers: int, experts: int, shard_slots: Sequence[int], min_copies: int = 1, current: Placement | None = None
) -> Placement:
    """Give every expert ``min_copies`` copies on distinct shards, with equal numbers of copies on equal shards.

    Copies that ``current`` already has are kept where the balance allows, so that a change of the number of shards
    moves as little as it can. Slots beyond the wanted copies stay empty: filling them well needs routing statistics.

    Args:
        layers: MoE layers of the model; 0 gives a placement of nothing.
        experts: experts per layer.
        shard_slots: slots per layer of each shard; 0 for a shard that must end empty.
        min_copies: copies of every expert, each on a shard of its own.
        current: the placement in force, if any; its shards are matched by index.

    Raises:
        InfeasiblePlacementError: too few shards for the copies, too few slots, or a size that cannot be.
    """
    layers = whole(InfeasiblePlacementError, "layers", layers)
    experts = whole(InfeasiblePlacementError, "experts", experts, 1, MOST_EXPERTS)
    min_copies = whole(InfeasiblePlacementError, "min_copies", min_copies, 1)
    shard_slots = wholes(InfeasiblePlacementError, "shard_slots", shard_slots)
    if current is not None:
        instance(InfeasiblePlacementError, "current", current, Placement)
    _check_feasible(experts, shard_slots, min_copies)
    limits = np.minimum(np.asarray(shard_slots, dtype=np.int64), experts)
    slots = np.full((layers, sum(shard_slots)), EMPTY, dtype=np.int32)
    for layer in range(layers):
        quota = _even_quotas(experts * min_copies, limits, first=layer)
        held = _place_layer(quota, min_copies, _kept(current, layer, experts, quota), np.random.default_rng(layer))
        _fill_slots(slots[layer], held, shard_slots)
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


def _even_quotas(wanted: int, limits: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    """Share ``wanted`` copies among shards as evenly as ``limits`` allow, int64 ``[shards]``.

    What does not divide goes to shards in turn, beginning with shard ``first``, so that layers even each other out.
    """
    quota = np.zeros_like(limits)
    while wanted:
        open_shards = np.flatnonzero(quota < limits)
        share = wanted // len(open_shards)
        if share == 0:
            turn = np.sort((open_shards - first) % len(limits))[:wanted]
            quota[(turn + first) % len(limits)] += 1
            break
        added = np.minimum(share, limits[open_shards] - quota[open_shards])
        quota[open_shards] += added
        wanted -= int(added.sum())
    return quota


def _kept(current: Placement | None, layer: int, experts: int, quota: NDArray[np.int64]) -> NDArray[np.bool_]:
    """The pairs of ``current`` that fit the quotas, bool ``[experts, shards]``."""
    kept = np.zeros((experts, len(quota)), dtype=bool)
    if current is None or current.experts != experts or layer >= current.layers:
        return kept
    shards = min(current.shards, len(quota))
    held = current.held_in(layer)[:, :shards]
    kept[:, :shards] = held & (np.cumsum(held, axis=0) <= quota[:shards])
    return kept


def _place_layer(
    quota: NDArray[np.int64], copies: int, held: NDArray[np.bool_], order: np.random.Generator
) -> NDArray[np.bool_]:
    """Complete ``held`` (bool ``[experts, shards]``) to ``copies`` per expert and ``quota`` per shard.

    A flow problem (source - expert - shard - sink) solved by augmenting paths (Ford and Fulkerson, 1956). Quotas of at
    most one copy of each expert that sum to all copies are always met (Gale and Ryser, 1957).
    """
    held = held.copy()
    for crowded in np.flatnonzero(held.sum(axis=1) > copies):
        held[crowded, np.flatnonzero(held[crowded])[copies:]] = False
    room = quota - held.sum(axis=0)
    for expert in range(len(held)):
        for _ in range(copies - int(held[expert].sum())):
            room[_add_copy(held, expert, room, order)] -= 1
    return held


def _add_copy(held: NDArray[np.bool_], expert: int, room: NDArray[np.int64], order: np.random.Generator) -> int:
    """Give ``expert`` one more shard, moving other experts along the shortest path to a shard with ``room``
    (int64 ``[shards]``), which is returned."""
    # Ties are broken at random (seeded): no fixed pair of shards then shares its experts, and the load of a lost shard
    # falls on all others instead of on one.
    ties = order.random(len(room))
    free = np.where(held[expert], 0, room)
    roomiest = int(np.where(free == free.max(), ties, 1.0).argmin())
    if free[roomiest] > 0:
        held[expert, roomiest] = True
        return roomiest
    preference = np.lexsort((ties, -room))
    queue: list[int] = preference[~held[expert, preference]].tolist()
    reached: dict[int, tuple[int, int | None]] = dict.fromkeys(queue, (expert, None))
    for shard in queue:
        if room[shard] > 0:
            _move_along(held, reached, shard)
            return shard
        for target, mover in _movers(held, shard, preference):
            if target not in reached:
                reached[target] = (mover, shard)
                queue.append(target)
    raise InfeasiblePlacementError(f"expert {expert}: no shard has a slot left for another copy")


def _movers(held: NDArray[np.bool_], shard: int, targets: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Those of ``targets`` that an expert of ``shard`` can move to, each with the first such expert."""
    experts = np.flatnonzero(held[:, shard])
    if not len(experts):
        return []
    can_move = ~held[np.ix_(experts, targets)]
    some = np.flatnonzero(can_move.any(axis=0))
    return list(zip(targets[some].tolist(), experts[can_move[:, some].argmax(axis=0)].tolist(), strict=True))


def _move_along(held: NDArray[np.bool_], reached: dict[int, tuple[int, int | None]], shard: int) -> None:
    """Carry out the path that ends at ``shard``: each expert on it moves in where the next one moved out."""
    target: int | None = shard
    while target is not None:
        mover, source = reached[target]
        held[mover, target] = True
        if source is not None:
            held[mover, source] = False
        target = source


def _fill_slots(row: NDArray[np.int32], held: NDArray[np.bool_], shard_slots: Sequence[int]) -> None:
    """Write each shard's experts, in ascending order, into its slots of one layer."""
    begin = 0
    for shard, slots in enumerate(shard_slots):
        experts = np.flatnonzero(held[:, shard])
        row[begin : begin + len(experts)] = experts
        begin += slots
