"""What a process remembers of a MoEDeployment between reconciles. Losing it costs a moment's patience, never state."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from moe_operator.allowance import Allowance
from moe_operator.api import MoEDeployment, MoEDeploymentStatus
from moe_operator.finding import Finding
from moe_operator.reconcile.telling import Telling
from moe_operator.runtimes.port import Runtime

MOST_DEPARTED = 8
"""Objects of one name that went without a cleanup and are remembered: whoever may make and delete them can go on."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Memory:
    """What is remembered of one object; a new object of the same name begins anew. Times are of a monotonic clock.

    Attributes:
        term: claimed for its directory under this leadership; 0 before the first.
        runtime: what it runs on; None until that was asked for.
        seen: the object as it was last.
        outlives: whether something of it may run where it outlives the object, and is to go with it.
        not_before: when the applications of one that is gone are tried to be removed again.
        concluded: the status that the last pass came to, written or not: what the next one goes on from. What stands in
            the object may be written by anybody with the right to.
        written: the status that this process wrote last.
        telling: when the next may be written; ``events``: when the next Event.
        unkept: what the API server refused of its ExpertPlacements in the last pass.
        reported: whether the directory of the core application that runs has reported.
    """

    uid: str
    term: int = 0
    runtime: Runtime | None = None
    seen: MoEDeployment | None = None
    outlives: bool = False
    not_before: float = float("-inf")
    concluded: MoEDeploymentStatus | None = None
    written: MoEDeploymentStatus | None = None
    telling: Telling = field(default_factory=Telling)
    events: Allowance = field(default_factory=lambda: Allowance(burst=25, seconds=60.0))
    unkept: Finding | None = None
    reported: bool = False
    _runtime_failing_since: float | None = None
    _report_failing_since: float | None = None
    _cleanup_failing_since: float | None = None
    _pass_failing_since: float | None = None
    _shards_missing_since: float | None = None
    _failed_since: dict[str, float] = field(default_factory=dict)

    def claim_term(self, seen: int) -> int:
        """The term to write with, when the directory has seen ``seen``: one more than any other leader's."""
        if self.term < seen or self.term == 0:
            self.term = seen + 1
        return self.term

    def runtime_failing(self, failing: bool, now: float) -> float:
        """Note whether the runtime could be read; returns for how many seconds it could not."""
        self._runtime_failing_since = _since(self._runtime_failing_since, failing, now)
        return _seconds(self._runtime_failing_since, now)

    def report_failing(self, failing: bool, now: float) -> float:
        """Note whether a report is missed; returns for how many seconds it has been."""
        self._report_failing_since = _since(self._report_failing_since, failing, now)
        return _seconds(self._report_failing_since, now)

    def shards_missing(self, missing: bool, now: float) -> float:
        """Note whether some shards have answered and others not yet; returns for how many seconds already."""
        self._shards_missing_since = _since(self._shards_missing_since, missing, now)
        return _seconds(self._shards_missing_since, now)

    def cleanup_failing(self, failing: bool, now: float) -> float:
        """Note whether the cleanup gets on; returns for how many seconds it has not."""
        self._cleanup_failing_since = _since(self._cleanup_failing_since, failing, now)
        return _seconds(self._cleanup_failing_since, now)

    def pass_failing(self, failing: bool, now: float) -> float:
        """Note whether a pass came to its end; returns for how many seconds none has."""
        self._pass_failing_since = _since(self._pass_failing_since, failing, now)
        return _seconds(self._pass_failing_since, now)

    def failed(self, applications: frozenset[str], now: float) -> dict[str, float]:
        """Note which applications the runtime has given up; returns for how many seconds each has been."""
        self._failed_since = {name: self._failed_since.get(name, now) for name in applications}
        return {name: now - since for name, since in self._failed_since.items()}


def _since(before: float | None, failing: bool, now: float) -> float | None:
    if not failing:
        return None
    return now if before is None else before


def _seconds(since: float | None, now: float) -> float:
    return 0.0 if since is None else now - since


@dataclass(slots=True)
class Memories:
    """Memories by key; a key that is gone is forgotten.

    An object that is gone although something of it may be left is ``departed`` until that is cleaned up. Meanwhile
    there may be a new one of the same name.
    """

    _memories: dict[str, Memory] = field(default_factory=dict)
    _departed: dict[str, list[Memory]] = field(default_factory=dict)

    def of(self, key: str, uid: str) -> Memory:
        memory = self._memories.get(key)
        if memory is None or memory.uid != uid:
            self.forget(key)
            memory = self._memories[key] = self._back(key, uid) or Memory(uid)
        return memory

    def _back(self, key: str, uid: str) -> Memory | None:
        """Take back an object that only seemed to have departed."""
        memory = next((each for each in self.departed(key) if each.uid == uid), None)
        if memory:
            self.cleaned_up(key, memory)
        return memory

    def forget(self, key: str) -> None:
        """The object is gone, or another one has its name."""
        memory = self._memories.pop(key, None)
        if memory and memory.outlives and memory.seen:
            departed = self._departed.setdefault(key, [])
            departed.append(memory)
            if len(departed) > MOST_DEPARTED:
                departed.pop(0)
                logger.warning("more than %d went without their finalizer: the first is not cleaned up", MOST_DEPARTED)

    def departed(self, key: str) -> tuple[Memory, ...]:
        """Objects of this name that went without a cleanup."""
        return tuple(self._departed.get(key, ()))

    def due_departed(self, key: str, now: float) -> Memory | None:
        """The departed object that has waited longest for an attempt, if its time has come."""
        first = min(self.departed(key), key=lambda memory: memory.not_before, default=None)
        return first if first and first.not_before <= now else None

    def cleaned_up(self, key: str, memory: Memory) -> None:
        """Nothing is left of a departed one, or it was given up."""
        self._departed[key].remove(memory)
        if not self._departed[key]:
            del self._departed[key]

    def uids(self, key: str) -> frozenset[str]:
        """The uids of all objects of this name that are worked, departed ones included."""
        memory = self._memories.get(key)
        return frozenset(each.uid for each in (*self.departed(key), *([memory] if memory else [])))
