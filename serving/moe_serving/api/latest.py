"""One answer for many who ask at once."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Latest(Generic[T]):
    """Runs ``fetch``, one run at a time, for whoever asks; each gets the result of a run that began after it asked.

    However many ask, one run is under way and one waits for it, and between the beginnings of two is a pause.
    """

    def __init__(self, fetch: Callable[[], Awaitable[T]], pause_s: float) -> None:
        self._fetch = fetch
        self._pause_s = pause_s
        self._begun = -math.inf
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """
        Raises:
            Exception: whatever ``fetch`` raises.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._running))
            self._next.add_done_callback(_take_exception)
        return await asyncio.shield(self._next)

    async def _run_after(self, before: asyncio.Task[T] | None) -> T:
        if before is not None:
            await asyncio.wait([before])
        await asyncio.sleep(self._begun + self._pause_s - time.monotonic())
        self._begun = time.monotonic()
        self._running, self._next = self._next, None
        return await self._fetch()


def _take_exception(task: asyncio.Task[T]) -> None:
    """Those who asked may all have gone: then nobody else would."""
    if not task.cancelled():
        task.exception()
