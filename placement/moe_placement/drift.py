"""Has routing changed since the placement was made? A test per window, and when to bother."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import loads, real, whole
from moe_placement.errors import InvalidPolicyError, InvalidStatisticsError, MismatchError


@dataclass(frozen=True, slots=True)
class Drift:
    """Attributes: ``distance`` float64 ``[layers]`` total variation between the two loads, of what is expected from
    sampling alone ``expected`` float64 ``[layers]``; ``drifted`` whether the mean distance exceeds it by the factor.
    """

    distance: NDArray[np.float64]
    expected: NDArray[np.float64]
    drifted: bool


class DriftDetector:
    """Compares each window with a reference: the window that the placement in force was made from.

    Two windows of the same routing differ by chance; under multinomial sampling the expected total variation is
    sqrt(p (1/n + 1/m) / (2 pi)) summed over experts, for loads p and n and m tokens. A window counts as drifted when
    its distance exceeds ``factor`` times that, and the detector fires when ``patience`` windows in a row do.

    Raises:
        InvalidStatisticsError: loads that are not ``[layers, experts]``, finite and not negative.
        InvalidPolicyError: a factor that is not above 0, or a patience below 1.
    """

    def __init__(self, reference: NDArray[np.float64], factor: float = 1.5, patience: int = 2) -> None:
        self._reference = loads(InvalidStatisticsError, reference)
        self._factor = real(InvalidPolicyError, "factor", factor, above=True)
        self._patience = whole(InvalidPolicyError, "patience", patience, 1)
        self._row = 0

    def observe(self, load: NDArray[np.float64]) -> Drift:
        """Compare a window's loads ``[layers, experts]``.

        Raises:
            MismatchError: another shape than the reference.
        """
        window = self._of_same_model(load)
        n, m = (np.maximum(counts.sum(axis=1, keepdims=True), 1) for counts in (self._reference, window))
        p, q = self._reference / n, window / m
        pooled = (self._reference + window) / (n + m)
        distance = 0.5 * np.abs(p - q).sum(axis=1)
        expected = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m) / (2 * np.pi)).sum(axis=1)
        over = bool(distance.mean() > self._factor * expected.mean())
        self._row = self._row + 1 if over else 0
        return Drift(distance, expected, self._row >= self._patience)

    def rebase(self, reference: NDArray[np.float64]) -> None:
        """Start anew from the loads that a new placement was made from.

        Raises:
            MismatchError: another shape than the reference before.
        """
        self._reference = self._of_same_model(reference)
        self._row = 0

    def _of_same_model(self, load: NDArray[np.float64]) -> NDArray[np.float64]:
        window = loads(InvalidStatisticsError, load)
        if window.shape != self._reference.shape:
            raise MismatchError(f"loads have shape {window.shape}, the reference {self._reference.shape}")
        return window
