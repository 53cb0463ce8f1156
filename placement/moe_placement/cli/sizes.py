"""What is too large to be planned or replayed in sensible time and memory, refused before any array is made."""

from __future__ import annotations

from moe_placement.errors import InfeasiblePlacementError
from moe_placement.traces import Trace

SHARDS = 1 << 14
"""Ten thousand take minutes."""
SLOTS = 4_000_000
"""Layers x slots; ``encoding`` reads no larger placement."""
CELLS = 1 << 28
"""Of an array that planning keeps; ``encoding`` reads no placement of more layers x experts x shards."""
VISITS = 1 << 31
"""Tokens x shards of a replay, a byte each."""


def check_plan(layers: int, experts: int, shards: int, slots: int) -> None:
    """A model's ``layers`` of ``experts`` on ``shards`` of ``slots`` each, in all nodes.

    Raises:
        InfeasiblePlacementError: too large to plan; the message names the product, its bound and the cure.
    """
    fewer = "give fewer or smaller --nodes, --shards, --slots"
    _check(f"{shards} shards", shards, SHARDS, fewer)
    _check(f"{layers} layers x {shards} shards x {slots} slots", layers * shards * slots, SLOTS, fewer)
    _check(f"{layers} layers x {experts} experts x {shards} shards", layers * experts * shards, CELLS, fewer)
    pairs = f"{layers} layers x {experts} x {experts} pairs of experts"
    _check(pairs, layers * experts**2, CELLS, "give a trace of fewer layers")


def check_replay(trace: Trace, shards: int) -> None:
    """The same for a replay, which marks the shards that each token visits."""
    _check(
        f"{len(trace)} tokens x {shards} shards", len(trace) * shards, VISITS, "give a shorter trace or fewer shards"
    )


def _check(what: str, size: int, most: int, cure: str) -> None:
    if size > most:
        raise InfeasiblePlacementError(f"{what} are more than {most} and too much to handle: {cure}")
