"""Holds the part of pairs that is saved where it was asked to be, as the traffic drifts from the calibration's text.

What is moved is the place on the calibration's curve, in proportion: what is saved of other traffic than the text
grows roughly as a power of it, of which the exponent is near 1, and steps by the square root of what is missing settle
for any exponent below 4. Steps by a difference would not, where a little more of the curve saves a lot.
"""

from __future__ import annotations

WINDOW_PAIRS = 8192
"""Counted before each step: their mean is off by half a percent, one time in three."""
_GAIN = 0.5
_MOST_RATIO = 4.0
"""Between what was asked and what was saved, in one step: a window in which nothing was saved says no more."""
_LEAST_PLACE = 0.01
"""Of what was asked: from there on it can grow again."""


class SavingController:
    """For one thread.

    Args:
        asked: percent of pairs to be saved.
        most: the farthest place on the curve, in percent. Losses are bounded by it, so it comes first: where the
            traffic is such that more would be needed, less is saved.

    Attributes:
        place: percent of pairs that thresholds saved of the calibration's text.
    """

    def __init__(self, asked: float, most: float) -> None:
        self._asked = asked
        self._most = most
        self.place = min(asked, most)
        self._pairs = self._skipped = 0

    def note(self, pairs: int, skipped: int) -> bool:
        """Count pairs that a gate chose, and those of them that were not computed; whether ``place`` has moved."""
        self._pairs += pairs
        self._skipped += skipped
        if self._pairs < WINDOW_PAIRS:
            return False
        saved = max(100.0 * self._skipped / self._pairs, self._asked / _MOST_RATIO)
        self._pairs = self._skipped = 0
        ratio = max(self._asked / saved, 1 / _MOST_RATIO)
        place: float = min(max(self.place * ratio**_GAIN, _LEAST_PLACE * self._asked), self._most)
        moved, self.place = place != self.place, place
        return moved
