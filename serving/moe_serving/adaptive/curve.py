"""Thresholds by layer, and what they cost, as functions of the pairs that they save: measured at some levels, and
between these along straight lines.

Losses grow ever faster with what is saved, so a line between two levels lies above what would be measured there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class LossIncrease:
    """By how much the loss on held-out text is larger, in nats per token: the mean, and a 95% interval of it."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.4f} (95%: {self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True, slots=True)
class Point:
    """One level.

    Attributes:
        pairs_saved: percent of the pairs of held-out text that were not computed.
        thresholds: of each layer, see ``rule.thin``.
    """

    pairs_saved: float
    thresholds: tuple[float, ...]
    loss: LossIncrease


class Curve:
    """Args:
    points: by rising ``pairs_saved``; that nothing saved costs nothing need not be said.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        nothing = Point(0.0, (1.0,) * len(points[0].thresholds), LossIncrease(0.0, 0.0, 0.0))
        points = (nothing, *points)
        self._saved = np.array([point.pairs_saved for point in points])
        self._thresholds = np.array([point.thresholds for point in points])
        self._losses = np.array([(point.loss.mean, point.loss.low, point.loss.high) for point in points])

    @property
    def most(self) -> float:
        """Percent of pairs saved at the last level."""
        return float(self._saved[-1])

    def thresholds(self, pairs_saved: float) -> NDArray[np.float64]:
        """``[layers]``, those that saved so many percent of the pairs of held-out text; beyond ``most`` those of it."""
        return _between(pairs_saved, self._saved, self._thresholds)

    def loss(self, pairs_saved: float) -> LossIncrease:
        """What these cost."""
        return LossIncrease(*map(float, _between(pairs_saved, self._saved, self._losses)))

    def reach(self, most_loss: float) -> float:
        """Percent of pairs of which saving costs ``most_loss`` at most, by the upper end of the interval, as does
        saving any fewer."""
        high = self._losses[:, 2]
        beyond = np.flatnonzero(high > most_loss)
        if not len(beyond):
            return self.most
        last = int(beyond[0])
        if last == 0:
            return 0.0
        part = (most_loss - high[last - 1]) / (high[last] - high[last - 1])
        return float(self._saved[last - 1] + part * (self._saved[last] - self._saved[last - 1]))


def _between(at: float, places: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The row at a place, of the rows ``[places, n]``."""
    at = min(max(at, float(places[0])), float(places[-1]))
    after = max(1, int(np.searchsorted(places, at)))
    part = (at - places[after - 1]) / (places[after] - places[after - 1])
    row: NDArray[np.float64] = rows[after - 1] + part * (rows[after] - rows[after - 1])
    return row
