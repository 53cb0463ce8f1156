"""How this process gives memory back."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 512 * 1024


def give_back_large_blocks() -> None:
    """Have every large block be one of its own, which the system gets back once it is freed.

    By itself the allocator of the C library raises that limit to the largest block freed so far, such as the answer of
    a Ray of 12 MiB: from then on such blocks come out of the heap, and leave holes there.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library has another way, or none
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)
