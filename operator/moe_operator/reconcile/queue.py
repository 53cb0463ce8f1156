"""The queue of keys: each key is worked by one worker at a time, and waits in it at most once.

As client-go's workqueue: a key that is added while it is being worked is worked again afterwards, so that no event is
lost and none is worked twice at once. Beyond it: of the keys that are known to be slow only some are worked at a time,
so that workers remain for all others.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque


class WorkQueue:
    """For one event loop. ``slow_at_a_time``: how many slow keys are worked at most; None for any number."""

    def __init__(self, slow_at_a_time: int | None = None) -> None:
        self._slow_at_a_time = slow_at_a_time
        self._ready: deque[tuple[int, str]] = deque()
        self._ready_slow: deque[tuple[int, str]] = deque()
        self._count = itertools.count()
        self._slow: set[str] = set()
        self._waiting: set[str] = set()
        self._working: set[str] = set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._something = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait for a worker."""
        return len(self._ready) + len(self._ready_slow)

    def add(self, key: str) -> None:
        """Have ``key`` worked as soon as a worker is free."""
        self._cancel(key)
        if key in self._waiting:
            return
        self._waiting.add(key)
        if key not in self._working:
            self._make_ready(key)

    def mark(self, key: str, slow: bool) -> None:
        """Say whether ``key`` keeps its worker waiting; it counts from the next time that it is added."""
        if slow:
            self._slow.add(key)
        else:
            self._slow.discard(key)

    def add_after(self, key: str, seconds: float) -> None:
        """Have ``key`` worked in ``seconds``, or before if it is added before; replaces the delay it had."""
        self._cancel(key)
        if key not in self._waiting:
            self._timers[key] = asyncio.get_running_loop().call_later(seconds, self.add, key)

    async def take(self) -> str:
        """The next key; ``done`` must follow."""
        while (key := self._next()) is None:
            self._something.clear()
            await self._something.wait()
        self._waiting.discard(key)
        self._working.add(key)
        return key

    def done(self, key: str) -> None:
        """The worker has finished with ``key``."""
        self._working.discard(key)
        if key in self._waiting:
            self._make_ready(key)
        if self._ready_slow:
            self._something.set()

    def drop(self, key: str) -> None:
        """Forget the delay of a key that is gone."""
        self._cancel(key)
        self._slow.discard(key)

    def close(self) -> None:
        """Cancel all delays."""
        for key in list(self._timers):
            self._cancel(key)

    def _make_ready(self, key: str) -> None:
        (self._ready_slow if key in self._slow else self._ready).append((next(self._count), key))
        self._something.set()

    def _next(self) -> str | None:
        """The one that has waited longest, of those that may be worked."""
        may_be_slow = self._slow_at_a_time is None or len(self._slow & self._working) < self._slow_at_a_time
        queues = [queue for queue in (self._ready, self._ready_slow if may_be_slow else None) if queue]
        return min(queues, key=lambda queue: queue[0]).popleft()[1] if queues else None

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()
