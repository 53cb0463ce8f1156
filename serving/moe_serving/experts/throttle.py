"""How fast bytes may flow: a token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_SECONDS = 0.1
"""What may flow at once after a pause: what would have flowed in so long."""


class TokenBucket:
    """Of bytes. Whoever takes more than there is goes into debt and waits first, so an amount of any size passes.

    Attributes:
        rate: bytes per second; 0 for no bound.
    """

    def __init__(self, rate: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._tokens = 0.0
        self._filled = clock()

    def take(self, size: int) -> float:
        """Count ``size`` bytes as flowing, after as many seconds as this returns."""
        now = self._clock()
        if not self.rate:
            self._tokens, self._filled = 0.0, now
            return 0.0
        self._tokens = min(self.rate * BURST_SECONDS, self._tokens + (now - self._filled) * self.rate)
        self._filled = now
        wait = max(0.0, -self._tokens / self.rate)
        self._tokens -= size
        return wait
