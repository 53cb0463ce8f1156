"""Which replicas are left alone, and for how long one is waited for: what ``router`` adds to Serve's choice. No Ray."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Protocol, TypeVar

AVOID_S = 10.0
"""For how long a replica that was lost is not chosen. By then Serve's router has forgotten its queue, and chooses it
only when it tells its length; one that is stuck and still answers that costs a try each time."""


class Named(Protocol):
    """As Serve calls a replica."""

    @property
    def unique_id(self) -> str: ...


class Replica(Protocol):
    """What has to be known of one."""

    @property
    def replica_id(self) -> Named: ...


R = TypeVar("R", bound=Replica)


class LostReplicas:
    """Replicas, by the names that Serve gave them, that are not to be chosen for now. For any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until: dict[str, float] = {}

    def add(self, replica: str) -> None:
        now = self._clock()
        self._until = {name: until for name, until in self._until.items() if until > now} | {replica: now + AVOID_S}

    def __contains__(self, replica: str) -> bool:
        return self._until.get(replica, 0.0) > self._clock()


LOST = LostReplicas()
"""Of this process: who sees that a replica is lost, and the router that Serve makes, have nothing else in common."""


def without_lost(ranks: list[list[R]], candidates: list[R], lost: LostReplicas) -> list[list[R]]:
    """``ranks`` without lost replicas; two others where none is left; all of them where there are no others."""
    kept = [[replica for replica in rank if replica.replica_id.unique_id not in lost] for rank in ranks]
    if any(kept):
        return kept
    others = [replica for replica in candidates if replica.replica_id.unique_id not in lost]
    return [random.sample(others, min(2, len(others)))] if others else ranks


def has_others(asked: object, known: Collection[object]) -> bool:
    """Whether there are replicas beside the one ``asked``, which Serve may have taken from those ``known`` by then."""
    return any(other != asked for other in known)


async def accepted(accepting: Coroutine[Any, Any, Any], seconds: float, has_others: Callable[[], bool]) -> Any:
    """What ``accepting`` returns or raises.

    Raises:
        TimeoutError: nothing for so many seconds, or for longer while there were no others. It is cancelled.
    """
    answer = asyncio.ensure_future(accepting)
    try:
        done, _ = await asyncio.wait({answer}, timeout=seconds)
        while not done and not has_others():
            done, _ = await asyncio.wait({answer}, timeout=seconds)
        if not done:
            raise TimeoutError
        return answer.result()
    finally:
        answer.cancel()
