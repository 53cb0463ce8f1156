"""A dictionary that forgets what nobody asks for: its keys come from users, and would pile up for as long as we run."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

IDLE_SECONDS = 900.0
"""What is wanted is asked for each minute; to forget one that is costs a look, and the memory of what was written."""

K = TypeVar("K")
V = TypeVar("V")


@dataclass(slots=True)
class Recent(Generic[K, V]):
    """Entries that were asked for within the last ``seconds``, the longest unasked for first."""

    seconds: float = field(default_factory=lambda: IDLE_SECONDS)
    clock: Callable[[], float] = time.monotonic
    _entries: OrderedDict[K, tuple[float, V]] = field(default_factory=OrderedDict)

    def __len__(self) -> int:
        self._drop_old()
        return len(self._entries)

    def get(self, key: K) -> V | None:
        """The entry, kept for another ``seconds``; None if there is none."""
        found = self._entries.get(key)
        if found is None:
            return None
        self.put(key, found[1])
        return found[1]

    def get_or_make(self, key: K, make: Callable[[], V]) -> V:
        """The entry, made if there is none."""
        found = self.get(key)
        if found is None:
            found = make()
            self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        self._entries[key] = (self.clock(), value)
        self._entries.move_to_end(key)
        self._drop_old()

    def items(self) -> list[tuple[K, V]]:
        """All entries, the one asked for last at the end; to look at them keeps none."""
        self._drop_old()
        return [(key, value) for key, (_, value) in self._entries.items()]

    def pop(self, key: K) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()

    def _drop_old(self) -> None:
        oldest = self.clock() - self.seconds
        while self._entries and next(iter(self._entries.values()))[0] < oldest:
            self._entries.popitem(last=False)
