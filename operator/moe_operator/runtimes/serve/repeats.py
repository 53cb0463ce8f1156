"""How often what does not stay is written again. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from moe_operator.delays import doubled

AT_ONCE = 3
"""Writes of the same that are made without a delay: whoever removed it once may have meant no harm."""
FIRST_SECONDS, CAP_SECONDS = 2.0, 60.0


@dataclass(slots=True)
class Repeats:
    """Of one deployment: a Ray that takes a PUT without an effect, or somebody who undoes it at once, would be written
    to for ever. What is written is told apart by equality; times are of a monotonic clock."""

    _change: object = None
    _times: int = 0
    _at: float = 0.0

    @property
    def often(self) -> bool:
        """Whether the same was written again and again."""
        return self._times >= AT_ONCE

    def wait(self, change: object, now: float) -> float:
        """Seconds until ``change`` may be written."""
        if not self.often or change != self._change:
            return 0.0
        return max(0.0, self._at + doubled(FIRST_SECONDS, CAP_SECONDS, self._times - AT_ONCE) - now)

    def written(self, change: object, now: float) -> None:
        self._times = self._times + 1 if change == self._change else 1
        self._change, self._at = change, now

    def kept(self) -> None:
        """What was written last was found there."""
        self._times = 0
