"""Proof that keys are being worked: every worker and loop gives a sign of life, and one that stops is named."""

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
    a loop gives one each turn. So a task that died, hangs in a call or never gets its turn is found alike.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._signs: dict[str, _Sign] = {}

    def expect(self, name: str, limit: float) -> None:
        """From now on ``name`` must give a sign at least every ``limit`` seconds."""
        self._signs[name] = _Sign(limit, self._clock(), "starting")

    def beat(self, name: str, doing: str = IDLE) -> None:
        """A sign of life of ``name``, and what it goes on to do, such as a key."""
        sign = self._signs[name]
        sign.at, sign.doing = self._clock(), doing

    def problem(self) -> str | None:
        """Who is overdue, since when, and doing what; None if nobody is."""
        now = self._clock()
        overdue = [
            f"{name} gave no sign of life for {now - sign.at:.0f} s (limit {sign.limit:g} s), last doing: {sign.doing}"
            for name, sign in self._signs.items()
            if now - sign.at > sign.limit
        ]
        return "; ".join(overdue) or None
