"""Figures as messages tell them. Pure."""

from __future__ import annotations

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"))
_SIZES = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def duration(seconds: float) -> str:
    """The largest unit that says it exactly enough: ``1h``, ``90s``, ``5m``."""
    for size, unit in _UNITS:
        if seconds >= size and seconds % size < 0.01 * seconds:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.3g}s" if seconds < 1000 else f"{seconds:.0f}s"


def amount(size: float) -> str:
    """Bytes with three figures: ``5.5 MB``."""
    for least, unit in _SIZES:
        if size >= least:
            return f"{size / least:.3g} {unit}"
    return f"{size:.0f} bytes"
