"""Numbers of shards that were wanted for long enough: up soon, down late, as an HPA's stabilisation windows have it.

More are added as many as were wanted all of a short time, fewer are kept as many as were wanted at any time of a long
one. What is remembered may be lost: a new process waits for a whole window before it acts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

GAP_SECONDS = 45.0
"""After so long without a figure nothing is known of the time between, and all begins anew."""


@dataclass(slots=True)
class Steadying:
    """``up``, ``down``: seconds of the two windows. Memory is bounded by the numbers of shards there are."""

    up: float
    down: float
    _since: float | None = None
    _last: float = 0.0
    _least: deque[tuple[float, int]] = field(default_factory=deque)
    _most: deque[tuple[float, int]] = field(default_factory=deque)

    def note(self, at: float, shards: int) -> None:
        """Note that so many shards are wanted at this moment."""
        if self._since is None or at - self._last > GAP_SECONDS:
            self.clear()
            self._since = at
        self._last = at
        while self._least and self._least[-1][1] >= shards:
            self._least.pop()
        while self._most and self._most[-1][1] <= shards:
            self._most.pop()
        self._least.append((at, shards))
        self._most.append((at, shards))

    def settled(self, current: int) -> int:
        """How many shards there should be, by what was wanted until the last moment. ``current``: how many there
        are."""
        if self._since is None:
            return current
        known = self._last - self._since
        least, most = _within(self._least, self._last - self.up), _within(self._most, self._last - self.down)
        if known >= self.up and least > current:
            return least
        return most if known >= self.down and most < current else current

    def clear(self) -> None:
        """Forget what was wanted before."""
        self._since = None
        self._least.clear()
        self._most.clear()


def _within(extremes: deque[tuple[float, int]], since: float) -> int:
    """The extreme of what was noted from ``since`` on; of older notes the last one counts, too, where there is no later
    one."""
    while len(extremes) > 1 and extremes[0][0] < since:
        extremes.popleft()
    return extremes[0][1]
