"""Signs of life of an engine's thread: they tell an engine that is stuck from one that works, waits or rests.

Only the thread itself gives them: at the end of a step, at each layer, and while it waits for shards, which is bounded
elsewhere. So another thread of the process that goes on proves nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SILENCE_S = 4.0
"""Without a sign for so long an engine is stuck, unless it announced a longer step. A layer takes milliseconds."""
UNKNOWN_STEP_S = 60.0
"""Announced for a step of a size that was never computed before: kernels may have to be chosen or compiled."""
_SLACK = 4.0
"""How many times longer than in earlier steps of a size a silence may last."""
_FADE = 0.98
"""What is left of a long silence at each later step: a machine that was busy once is not slow for ever."""


class SignsOfLife:
    """Given by the engine's thread, read by any.

    Args:
        clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: float | None = None
        self._allowed = SILENCE_S
        self._size = 0
        self._longest = 0.0
        self._usual: dict[int, float] = {}

    def give(self) -> None:
        """The thread goes on."""
        last, self._last = self._last, self._clock()
        if last is not None:
            self._longest = max(self._longest, self._last - last)

    def rest(self) -> None:
        """There is nothing to do: silence means nothing until the next sign."""
        self._last = None

    def begin_step(self, tokens: int) -> None:
        """A step of so many tokens begins: the silences in it may be as long as its size needs."""
        self._size = tokens.bit_length()
        usual = self._usual.get(self._size)
        self._allowed = max(SILENCE_S, UNKNOWN_STEP_S if usual is None else _SLACK * usual)
        self._last, self._longest = self._clock(), 0.0

    def end_step(self) -> None:
        """The step has been computed."""
        self.give()
        self._usual[self._size] = max(self._longest, _FADE * self._usual.get(self._size, 0.0))
        self._allowed = SILENCE_S

    @property
    def silence_s(self) -> float:
        """Seconds since the last sign; 0 at rest."""
        last = self._last
        return 0.0 if last is None else self._clock() - last

    @property
    def overdue_s(self) -> float:
        """Seconds by which the next sign is late; 0 while it is not."""
        return max(0.0, self.silence_s - self._allowed)
