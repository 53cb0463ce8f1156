"""How fast an engine gets through what is asked of it. Pure: whoever asks says what time it is."""

from __future__ import annotations

import math

_MEMORY_S = 20.0
"""What was done so long ago counts a third."""
_LEAST_S, _MOST_S = 1, 60


class Throughput:
    """Tokens asked for (prompts, and answers as long as they might have become) that were done with, a second.

    Only busy seconds count: an engine without work is not slow.
    """

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def busy(self, seconds: float) -> None:
        """A step took so long."""
        kept = math.exp(-seconds / _MEMORY_S)
        self._tokens *= kept
        self._seconds = self._seconds * kept + seconds

    def done(self, tokens: int) -> None:
        """An answer has ended."""
        self._tokens += tokens

    def wait_s(self, tokens: int) -> int:
        """Whole seconds that ``tokens`` will take by what was seen, 1 to 60; 1 before anything was."""
        if not self._tokens:
            return _LEAST_S
        return min(max(math.ceil(tokens * self._seconds / self._tokens), _LEAST_S), _MOST_S)
