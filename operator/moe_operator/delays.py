"""How long to wait before something is tried once more. Pure."""

from __future__ import annotations

_MOST_DOUBLINGS = 32
"""Beyond any cap in use; a larger exponent would only overflow."""


def doubled(first: float, cap: float, times: int) -> float:
    """``first`` seconds, doubled ``times`` times, at most ``cap``."""
    return min(cap, first * 2.0 ** min(times, _MOST_DOUBLINGS))
