"""What goes through the pipes between the two processes: a length, then a pickle. Both ends are this release's own."""

from __future__ import annotations

import pickle
import struct
from typing import Any

HEAD = struct.Struct(">Q")
MOST_REPLY = 24 * 1024 * 1024
"""Bytes of a result."""

DONE, RAISED, OUT_OF_MEMORY = "done", "raised", "memory"
"""How a job ended, the first of the two things in a reply; the second is its result, its error, or None."""


def packed(content: Any) -> tuple[bytes, bytes]:
    """Head and body of a frame."""
    body = pickle.dumps(content, pickle.HIGHEST_PROTOCOL)
    return HEAD.pack(len(body)), body
