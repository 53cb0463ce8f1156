"""How fast bytes may flow: a token bucket."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_SECONDS = 0.1
"""What may flow at once after a pause: what would have flowed in so long."""


class TokenBucket:
    """Of bytes. Whoever takes more than there is goes into debt and waits first, so an amount of any size passes.

    Args:
        rate: bytes per second; 0 for no bound.
    """

    def __init__(self, rate: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._tokens = 0.0
        self._filled = clock()

    @property
    def rate(self) -> int:
        """Bytes per second. With another one a debt, which was to be paid off at the former, is forgiven."""
        return self._rate

    @rate.setter
    def rate(self, rate: int) -> None:
        if rate != self._rate:
            self._rate, self._tokens, self._filled = rate, 0.0, self._clock()

    def take(self, size: int) -> float:
        """Count ``size`` bytes as flowing, after as many seconds as this returns."""
        now = self._clock()
        if not self._rate:
            self._tokens, self._filled = 0.0, now
            return 0.0
        self._tokens = min(self._rate * BURST_SECONDS, self._tokens + (now - self._filled) * self._rate)
        self._filled = now
        wait = max(0.0, -self._tokens / self._rate)
        self._tokens -= size
        return wait
