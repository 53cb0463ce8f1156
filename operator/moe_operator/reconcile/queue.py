"""The queue of keys: each key is worked by one worker at a time, and waits in it at most once.

As client-go's workqueue: a key that is added while it is being worked is worked again afterwards, so that no event is
lost and none is worked twice at once.
"""

from __future__ import annotations

import asyncio
from collections import deque


class WorkQueue:
    """For one event loop."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._waiting: set[str] = set()
        self._working: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._something = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready)

    def add(self, key: str) -> None:
        """Have ``key`` worked as soon as a worker is free."""
        self._cancel(key)
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._ready.append(key)
            self._something.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Have ``key`` worked in ``seconds``, or before if it is added before; replaces the delay it had."""
        self._cancel(key)
        if key not in self._waiting:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def take(self) -> str:
        """The next key; ``done`` must follow."""
        while not self._ready:
            self._something.clear()
            await self._something.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: str) -> None:
        """The worker has finished with ``key``."""
        self._working.discard(key)
        if key in self._waiting:
            self._ready.append(key)
            self._something.set()

    def drop(self, key: str) -> None:
        """Forget the delay of a key that is gone."""
        self._cancel(key)

    def close(self) -> None:
        """Cancel all delays."""
        for key in list(self._timers):
            self._cancel(key)

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
