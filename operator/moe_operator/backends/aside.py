"""An address whose answers cannot be taken is left alone for a while, which grows: reading one costs everybody."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from moe_operator.backends.errors import RayAnswerRefusedError

FIRST_SECONDS = 10.0
CAP_SECONDS = 300.0
"""For which one that was mended waits at most until that is noticed."""


@dataclass(slots=True)
class Aside:
    """Of one address. ``clock`` is monotonic."""

    clock: Callable[[], float] = time.monotonic
    _words: str = ""
    _until: float = float("-inf")
    _refused: int = 0

    def check(self) -> None:
        """Before the address is asked.

        Raises:
            RayAnswerRefusedError: it is left alone now; in the words of the last refusal.
        """
        if self.clock() < self._until:
            raise RayAnswerRefusedError(self._words)

    def refused(self, error: RayAnswerRefusedError) -> None:
        """Its answer could not be taken: leave it alone for longer than the last time."""
        self._words = str(error)
        self._until = self.clock() + min(CAP_SECONDS, FIRST_SECONDS * 2.0 ** min(self._refused, 16))
        self._refused += 1

    def answered(self) -> None:
        """It gave an answer that could be taken."""
        self._until, self._refused = float("-inf"), 0
