"""When a Secret is read again: rarely, and at once where that matters.

One read serves everybody who names the Secret. It is looked at again when an object that names it has changed, when
Ray or the directory refuses what it held, before what it held is written with (``fresh``), and else every few minutes;
so whatever happens to it is noticed within five. What is wrong with it is looked at again after seconds, since somebody
is mending it, and after a minute every 30 s. Only times and locks are here; ``secrets`` does the reading.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from moe_operator.kube.errors import NameConflictError, SecretError
from moe_operator.recent import Recent

LONGEST_SECONDS = 300.0
"""The longest time for which a change goes unnoticed; the pass that then looks comes some seconds after it is due."""
DUE_SECONDS = (240.0, 285.0)
"""After so many seconds, drawn at random, it is looked at again: what was read together does not stay in step."""
ERROR_SECONDS = 3.0
"""For so long what is wrong with a Secret is told to everybody who names it, without another look."""
MENDING_SECONDS = 60.0
"""After which nobody seems to be mending it any more, and the looks come every ``ERROR_CAP_SECONDS``."""
ERROR_CAP_SECONDS = 30.0
FRESH_SECONDS = 1.0
"""A look of this age counts as one made now: several writes of one pass share it."""
REFUSED_CAP_SECONDS = 30.0
"""What is refused is looked at again after one second, then two, four, … and at last every 30: somebody may mend the
Secret, or else the server that refuses is wrong, for as long as it likes."""

T = TypeVar("T")
Key = tuple[str, str, str]
"""Namespace, name, and what it is used for."""


@dataclass(frozen=True, slots=True)
class Asker:
    """The object on whose behalf a Secret is read, and the generation of its spec."""

    uid: str
    generation: int


@dataclass(frozen=True, slots=True)
class Held(Generic[T]):
    """What was read of a Secret.

    Attributes:
        version: its resourceVersion.
        addresses: its annotation ``moe-operator.io/allowed-addresses``.
    """

    version: str
    content: T = field(repr=False)
    addresses: str = ""


@dataclass(slots=True)
class _Entry:
    """One Secret. ``looked`` is when the last look began, None while there is none to go by; ``error`` its failure.
    ``wrong_since``: when what stands there now was first seen to be wrong, be it for one of those who ask only."""

    generations: Recent[str, int]
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    held: Held[Any] | None = None
    error: tuple[type[SecretError | NameConflictError], str] | None = None
    looked: float | None = None
    due: float = 0.0
    refusals: int = 0
    wrong_since: float | None = None

    def due_if_wrong(self, looked: float) -> float:
        """When to look again at what a look at ``looked`` found wrong."""
        if self.wrong_since is None:
            self.wrong_since = looked
        mending = looked - self.wrong_since < MENDING_SECONDS
        return looked + (ERROR_SECONDS if mending else ERROR_CAP_SECONDS)


class SecretCache:
    """What is held of the Secrets that were asked for lately; ``clock`` is monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._entries: Recent[Key, _Entry] = Recent(clock=clock)

    def __len__(self) -> int:
        return len(self._entries)

    async def get(
        self, key: Key, asker: Asker, look: Callable[[Held[T] | None], Awaitable[Held[T]]], fresh: bool = False
    ) -> Held[T]:
        """What is held; ``look``, which gets what was held before, is asked where it is time to.

        Raises:
            SecretError, NameConflictError: as ``look`` said, now or seconds ago.
            KubeError: ``look`` could not tell; nothing is concluded from that, not even that all is as before.
        """
        asked = self._clock()
        entry = self._entries.get_or_make(key, lambda: _Entry(Recent(clock=self._clock)))
        async with entry.lock:
            changed = entry.generations.get(asker.uid) not in (None, asker.generation)
            if entry.looked is None or self._is_due(entry, entry.looked, asked, changed, fresh):
                await self._look(entry, look)
            entry.generations.put(asker.uid, asker.generation)
            held, error = entry.held, entry.error
        if error is not None:
            kind, message = error
            raise kind(message)
        if held is None:
            raise RuntimeError(f"neither content nor error of Secret {key[0]}/{key[1]}")
        return held

    def unfit(self, key: Key) -> None:
        """What is held serves not everybody who asks: for them that is wrong, and somebody is mending it."""
        entry = self._entries.get(key)
        if entry is not None and entry.looked is not None:
            entry.due = min(entry.due, entry.due_if_wrong(entry.looked))

    def refused(self, key: Key) -> None:
        """Somebody did not take what is held: look again soon, and later and later if that helps nothing."""
        entry = self._entries.get(key)
        if entry is None or entry.looked is None:
            return
        entry.due = min(entry.due, entry.looked + min(REFUSED_CAP_SECONDS, 2.0**entry.refusals))
        entry.refusals = min(entry.refusals + 1, 10)

    def _is_due(self, entry: _Entry, looked: float, asked: float, changed: bool, fresh: bool) -> bool:
        if changed and looked <= asked:  # a look that began later saw what the changed object may expect
            return True
        return (fresh and looked < asked - FRESH_SECONDS) or self._clock() >= entry.due

    async def _look(self, entry: _Entry, look: Callable[[Held[Any] | None], Awaitable[Held[Any]]]) -> None:
        began, before = self._clock(), entry.held
        entry.looked = None
        try:
            entry.held, entry.error = await look(before), None
            entry.due = began + random.uniform(*DUE_SECONDS)
        except (SecretError, NameConflictError) as error:
            entry.held, entry.error = None, (type(error), str(error))
            entry.due = entry.due_if_wrong(began)
        entry.looked = began
        if before is None or entry.held is None or entry.held.version != before.version:
            entry.refusals = 0
            entry.wrong_since = entry.wrong_since if entry.held is None else None
