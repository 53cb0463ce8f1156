"""Proof that keys are being worked: every worker and loop gives a sign of life, and one that stops is named.

Two words for it: ``problem`` is what the probe answers to anyone, and names no object; ``overdue`` is for the log, and
says what each was doing last.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

IDLE = "idle"


@dataclass(slots=True)
class _Sign:
    limit: float
    at: float
    doing: str


class Liveness:
    """Signs of life by name. A name that was never expected is never missed.

    A worker gives a sign when it takes a key, when it is done, and at least twice per limit while it waits for one;
    a loop gives one each turn. So a task that died, hangs in a call or never gets its turn is found alike. ``beat`` may
    be called from any thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._signs: dict[str, _Sign] = {}
        self._said: dict[str, str] = {}

    def expect(self, name: str, limit: float) -> None:
        """From now on ``name`` must give a sign at least every ``limit`` seconds."""
        self._signs[name] = _Sign(limit, self._clock(), "starting")

    def beat(self, name: str, doing: str = IDLE) -> None:
        """A sign of life of ``name``, and what it goes on to do, such as a key."""
        sign = self._signs[name]
        sign.at, sign.doing = self._clock(), doing

    def say(self, name: str, problem: str | None) -> None:
        """What is wrong with ``name`` although it lives; None: nothing any more. Without the name of any object."""
        if problem is None:
            self._said.pop(name, None)
        else:
            self._said[name] = problem

    def problem(self) -> str | None:
        """Who is overdue, since when, and what else is wrong, in words for anyone; None if nothing is."""
        return "; ".join([*(late for late, _ in self._late()), *self._said.values()]) or None

    def overdue(self) -> str | None:
        """Who is overdue, since when, and doing what, for the log; None if nobody is."""
        return "; ".join(f"{late}, last doing: {doing}" for late, doing in self._late()) or None

    def _late(self) -> list[tuple[str, str]]:
        now = self._clock()
        return [
            (f"{name} gave no sign of life for {now - sign.at:.0f} s (limit {sign.limit:g} s)", sign.doing)
            for name, sign in self._signs.items()
            if now - sign.at > sign.limit
        ]
