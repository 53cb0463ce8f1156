"""What goes through the pipes between the two processes. Both ends are this release's own.

A frame is two lengths, a pickle, and the bytes that were too large to be copied into it.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any

HEAD = struct.Struct(">QQ")
"""Length of the pickle, length of the bytes beside it."""
READY = b"ready"
"""What the other process writes first."""
MOST_REPLY = 24 * 1024 * 1024
"""Bytes of a result."""

DONE, RAISED, OUT_OF_MEMORY = "done", "raised", "memory"
"""How a job ended, the first of the two things in a reply; the second is its result, its error, or None."""

Frame = tuple[bytes, bytes, memoryview]


def packed(content: Any) -> Frame:
    """Head, pickle, and the bytes of a ``bytearray`` wrapped as ``PickleBuffer``, of which there is one at most."""
    beside: list[pickle.PickleBuffer] = []

    def is_copied(buffer: pickle.PickleBuffer) -> bool:
        # Arrays of NumPy offer their memory as well: these are small, and may be many.
        wrapped = isinstance(buffer.raw().obj, bytearray)
        if wrapped:
            beside.append(buffer)
        return not wrapped

    body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL, buffer_callback=is_copied)
    view = beside[0].raw() if beside else memoryview(b"")
    return HEAD.pack(len(body), len(view)), body, view


def unpacked(body: bytes, beside: bytearray) -> Any:
    """Inverse of ``packed``."""
    return pickle.loads(body, buffers=[beside])
