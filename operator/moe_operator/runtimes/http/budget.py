"""Bytes of large bodies that this process holds at a time, whatever many addresses send."""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ByteBudget:
    """``total`` bytes, for one event loop; who waits is served in turn, and each ``tenant`` has one body at a time.

    So a tenant whose Rays, however many, send slowly or much takes at most the part of one for as long as its answers
    may last; and of what is waited for only one body of each is before those of others.
    """

    def __init__(self, total: int) -> None:
        self._left = total
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._tenants: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    @asynccontextmanager
    async def taking(self, tenant: str, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes of the budget while inside; ``size`` is never more than the total."""
        async with self._tenants.setdefault(tenant, asyncio.Lock()):
            await self._take(size)
            try:
                yield
            finally:
                self._left += size
                self._wake()

    async def _take(self, size: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        self._wake()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._left += size
            else:
                self._waiting = deque(each for each in self._waiting if each[1] is not turn)
            self._wake()
            raise

    def _wake(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._left:
            size, turn = self._waiting.popleft()
            if not turn.done():
                self._left -= size
                turn.set_result(None)
