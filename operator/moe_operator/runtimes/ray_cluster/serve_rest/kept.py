"""What Ray clusters told last, and how much of it is kept in memory. Used by ``cluster``."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, field

from moe_contract.serve.state import ServeState
from moe_operator.runtimes.errors import RayError

KEPT_BYTES = 24 * 1024 * 1024
"""Of what all Ray clusters told last."""


@dataclass(slots=True, eq=False, weakref_slot=True)
class Seen:
    """What one token showed last: a state or an error, and when by the monotonic clock."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    at: float = float("-inf")
    result: ServeState | RayError | None = None

    @property
    def absent(self) -> bool:
        """Whether the last look was sure that no Serve runs."""
        return isinstance(self.result, ServeState) and not self.result.controller


class Kept:
    """What is kept of all addresses together: of more than ``KEPT_BYTES`` the states longest unread are let go, and
    are read anew by whoever asks next. What nobody else keeps any more is not kept here either."""

    def __init__(self) -> None:
        self._sizes: weakref.WeakKeyDictionary[Seen, int] = weakref.WeakKeyDictionary()

    def note(self, seen: Seen) -> None:
        """``seen`` has a new result."""
        self._sizes.pop(seen, None)
        if isinstance(seen.result, ServeState):
            self._sizes[seen] = seen.result.size  # the newest comes last
        kept = sum(self._sizes.values())
        for oldest, size in list(self._sizes.items()):
            if kept <= KEPT_BYTES or oldest is seen:
                break
            oldest.result = None
            del self._sizes[oldest]
            kept -= size
