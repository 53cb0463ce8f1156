"""How kernels cut their work into tiles. Pure."""

from __future__ import annotations

SMALLEST = 16
"""Rows, columns and depth that tensor cores multiply at least."""


def tile(size: int, most: int | None = None) -> int:
    """The power of two that holds ``size``, ``SMALLEST`` at least, and at most ``most``."""
    whole = max(SMALLEST, 1 << max(0, size - 1).bit_length())
    return whole if most is None else min(whole, most)


def count(size: int, of: int) -> int:
    """Tiles of ``of`` that hold ``size``."""
    return -(-size // of)
