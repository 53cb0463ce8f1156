"""A bound on how often something is done: a token bucket. Pure; used for status writes, Events and lines of the log."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Allowance:
    """So many at once, and from then on one per ``seconds``. Times are of a monotonic clock."""

    burst: int
    seconds: float
    _left: float = field(init=False)
    _at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._left = float(self.burst)

    def wait(self, now: float) -> float:
        """Seconds until one more is allowed."""
        left = min(self.burst, self._left + (now - self._at) / self.seconds)
        return max(0.0, 1.0 - left) * self.seconds

    def take(self, now: float) -> None:
        """One was made."""
        self._left = min(self.burst, self._left + (now - self._at) / self.seconds) - 1.0
        self._at = now
