"""Answers that wait for news: a call is held until something has changed, so that idleness costs few of them."""

from __future__ import annotations

import asyncio
import contextlib


class Changes:
    """Counts changes, and wakes who waits for the next one. For one event loop.

    Attributes:
        count: of the changes so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._next = asyncio.Event()

    def note(self) -> None:
        """Something has changed."""
        self.count += 1
        self._next.set()
        self._next = asyncio.Event()

    async def beyond(self, count: int, seconds: float | None) -> None:
        """Return once there were more than ``count`` changes, or ``seconds`` have passed if any are given."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.count <= count:
                    await self._next.wait()
