"""``plan_migration``: which transfers side by side, in which order, and what may be freed when.

Every shard has the buffers of its slots, over all layers, plus ``topology.spare_slots``; a transfer needs a free one
when it starts. A copy may be freed when at least as many live ones remain as the expert has at the start or at the end,
whichever is fewer: so every prefix serves every expert, and a lost shard costs no expert that keeps two copies.

Shards that are dead already (``topology.dead``, and those of ``current`` that the topology has no more) are no source,
and what they held is no copy. An expert that only they held is unserved until it is read from the checkpoint: these
transfers go first, whatever the gains of their layers.

With one spare buffer per shard there is always a next copy: if every shard with work left were full, each would have
more copies to give than to get, but every copy given is one got by another. How a round is chosen stands in ``work``.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import floats, real, whole
from moe_placement.errors import InfeasiblePlacementError, MismatchError
from moe_placement.migration.schedule import CHECKPOINT, Losses, Migration, Round, round_seconds
from moe_placement.migration.work import Work
from moe_placement.placement import Placement
from moe_placement.topology import Topology


def plan_migration(
    current: Placement, target: Placement, topology: Topology, max_transfers: int | None = None,
    bandwidth_share: float = 0.25, gains: NDArray[np.float64] | None = None, max_bytes: float | None = None,
) -> Migration:  # fmt: skip
    """Schedule the way from ``current`` to ``target``.

    Args:
        current, target: their shards are those of ``topology``, by index.
        topology: slots of the target, and which shards are dead; its spare slots are the buffers.
        max_transfers: stop after so many.
        bandwidth_share: the part of each link that moves may use.
        gains: ``[layers]`` what moving each layer brings, in any unit; layers with more gain per byte go first, and
            where a limit cuts the way short, it is theirs that are made (after those of unserved experts).
        max_bytes: stop before more bytes of weights than this are copied.

    Raises:
        MismatchError: placements of different models or numbers of shards, or gains of another number of layers.
        InfeasiblePlacementError: no spare buffer anywhere, and a cycle of moves needs one; a target that has copies
            on dead shards; or a limit, a share or a gain that cannot be.
    """
    if (current.layers, current.experts) != (target.layers, target.experts) or topology.shards != target.shards:
        raise MismatchError("current, target and topology must be of one model and have the target's shards")
    limit = _budget(max_transfers, max_bytes, topology.costs.bytes_per_expert)
    real(InfeasiblePlacementError, "bandwidth_share", bandwidth_share, above=True, most=1)
    _check_target(target, topology)
    held = np.zeros_like(target.held)
    shards = min(current.shards, target.shards)
    held[:, :, :shards] = current.held[:, :, :shards]
    held = topology.readable(held)
    buffers = np.maximum(topology.slots * target.layers, held.sum(axis=(0, 1))) + topology.spare_slots
    work = Work(held, target.held, topology, buffers, None if gains is None else _density(gains, held, target.held))
    limit = min(limit, work.remaining)
    work.put_off_beyond(limit)
    rounds: list[Round] = []
    opening = work.frees()
    if opening:
        rounds.append(Round((), opening))
    while limit > 0:
        transfers = work.next_transfers(limit)
        if not transfers and work.take_up():
            continue
        if not transfers:
            raise InfeasiblePlacementError(
                f"{work.remaining} transfers are left and no shard has a free buffer; spare_slots is "
                f"{topology.spare_slots}, 1 is always enough"
            )
        limit -= len(transfers)
        work.carry_out(transfers)
        rounds.append(Round(transfers, work.frees()))
    gone = tuple(range(target.shards, current.shards))
    losses = Losses(topology.dead, gone, int(current.held.sum()) - int(held.sum()), int((~held.any(axis=2)).sum()))
    return _summary(rounds, work.remaining == 0, topology, bandwidth_share, losses)


def _check_target(target: Placement, topology: Topology) -> None:
    """Nothing can be copied to a dead shard."""
    copies = target.held.sum(axis=(0, 1))[list(topology.dead)]
    if copies.any():
        raise InfeasiblePlacementError(
            f"the target has {int(copies.sum())} copies on dead shards (dead is {topology.dead}): make it for a "
            "topology that names them dead"
        )


def _budget(max_transfers: int | None, max_bytes: float | None, bytes_per_expert: float) -> int:
    """Transfers that both limits allow."""
    by_count = by_bytes = sys.maxsize
    if max_transfers is not None:
        by_count = whole(InfeasiblePlacementError, "max_transfers", max_transfers)
    if max_bytes is not None:
        by_bytes = int(real(InfeasiblePlacementError, "max_bytes", max_bytes) // bytes_per_expert)
    return min(by_count, by_bytes)


def _density(gains: NDArray[np.float64], held: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 ``[layers]``: gain per transfer, and so per byte."""
    array = floats(InfeasiblePlacementError, "gains", gains, "[layers]")
    if array.shape != (len(held),):
        raise MismatchError(f"gains must name {len(held)} layers, got shape {array.shape}")
    return np.asarray(array / np.maximum((target & ~held).sum(axis=(1, 2)), 1), dtype=np.float64)


def _summary(rounds: list[Round], complete: bool, topology: Topology, share: float, losses: Losses) -> Migration:
    size = topology.costs.bytes_per_expert
    bytes_in, bytes_out = np.zeros(topology.shards), np.zeros(topology.shards)
    for step in rounds:
        for each in step.transfers:
            bytes_in[each.target] += size
            if each.source != CHECKPOINT:
                bytes_out[each.source] += size
    seconds = sum(round_seconds(step.transfers, topology, share) for step in rounds)
    return Migration(tuple(rounds), complete, seconds, bytes_in, bytes_out, losses)
