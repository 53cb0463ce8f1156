"""How much memory the experts of a shard take, foretold from the checkpoint's shapes and the dtype served. Pure."""

from __future__ import annotations

from moe_contract.model import ModelFacts

_USABLE = 0.9
"""Of a device's memory, what experts may take: the rest is the driver's, torch's and that of what is being computed."""
BLOCK_BYTES = 256 << 20
"""Slots come in blocks of so much, of which the last one may be nearly empty."""
_PAGES_BYTES = 8192
"""Both matrices of an expert begin on a page."""


def shard_bytes(facts: ModelFacts, slots: int, spare: int) -> int:
    """Of a shard with ``slots`` slots per layer and ``spare`` buffers that all layers share."""
    return (facts.layers * slots + spare) * (facts.bytes_per_expert + _PAGES_BYTES)


def usable_bytes(memory: int, part: float, *, is_gpu: bool) -> int:
    """What experts may take of a device with ``memory`` bytes, of which a process has a ``part``.

    A machine gives memory only where a slot is written, a GPU by whole blocks.
    """
    return max(0, int(memory * part * _USABLE) - (BLOCK_BYTES if is_gpu else 0))


def slots_within(facts: ModelFacts, usable: int, spare: int) -> int:
    """The most slots per layer that ``usable`` bytes hold."""
    return max(0, (usable // (facts.bytes_per_expert + _PAGES_BYTES) - spare) // facts.layers)
