"""The queue of keys: each key is worked by one worker at a time, and waits in it at most once.

As client-go's workqueue: a key that is added while it is being worked is worked again afterwards, so that no event is
lost and none is worked twice at once. Beyond it: of the keys that are known to be slow only some are worked at a time,
so that workers remain for all others. Namespaces take turns, and none has so many workers that none is left for others.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Collection

SHARE = 3
"""A namespace is given another worker while it has fewer than this many times those that are free: alone it has at most
three quarters of them, and whoever comes finds one."""


class _Ready:
    """Keys that may be worked, and the count of each. Namespaces take turns; in each the first is the oldest."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, deque[tuple[int, str]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def add(self, count: int, key: str) -> None:
        self._keys.setdefault(_namespace(key), deque()).append((count, key))

    def first(self, may: Callable[[str], bool]) -> tuple[int, str] | None:
        """The next key of those namespaces that may have another one worked."""
        return next((keys[0] for namespace, keys in self._keys.items() if may(namespace)), None)

    def take(self, key: str) -> None:
        """Take the first key of its namespace, whose turn it was."""
        keys = self._keys.pop(_namespace(key))
        keys.popleft()
        if keys:
            self._keys[_namespace(key)] = keys


class WorkQueue:
    """For one event loop.

    Args:
        slow_at_a_time: how many slow keys are worked at most; None for any number.
        workers: how many keys are worked at most; None where that is not known, and a namespace may take all.
    """

    def __init__(self, slow_at_a_time: int | None = None, workers: int | None = None) -> None:
        self._slow_at_a_time = slow_at_a_time
        self._workers = workers
        self._ready, self._ready_slow = _Ready(), _Ready()
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

    def busy(self) -> Counter[tuple[str, bool]]:
        """How many keys are being worked, by namespace and whether they are known to be slow."""
        return Counter((_namespace(key), key in self._slow) for key in self._working)

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
        if len(self):
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
        (self._ready_slow if key in self._slow else self._ready).add(next(self._count), key)
        self._something.set()

    def _next(self) -> str | None:
        """The first slow key or the first other one, whichever may be worked and has waited longer."""
        may, slow_may = _share(self._working, self._workers), _share(self._slow & self._working, self._slow_at_a_time)
        first = self._ready.first(may)
        first_slow = self._ready_slow.first(lambda namespace: may(namespace) and slow_may(namespace))
        if first and (first_slow is None or first < first_slow):
            self._ready.take(first[1])
            return first[1]
        if first_slow:
            self._ready_slow.take(first_slow[1])
            return first_slow[1]
        return None

    def _cancel(self, key: str) -> None:
        timer = self._timers.pop(key, None)
        if timer:
            timer.cancel()


def _namespace(key: str) -> str:
    return key.partition("/")[0]


def _share(worked: Collection[str], most: int | None) -> Callable[[str], bool]:
    """Whether a namespace may have another key worked, beside these; ``most`` are at a time."""
    if most is None:
        return lambda namespace: True
    held, free = Counter(map(_namespace, worked)), most - len(worked)
    return lambda namespace: held[namespace] < SHARE * free
