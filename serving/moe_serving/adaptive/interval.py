"""How sure a difference of losses is: resampling the windows of text that it was measured on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_serving.adaptive.curve import LossIncrease

_RESAMPLES, _SEED = 4000, 0


def loss_increase(differences: NDArray[np.float64]) -> LossIncrease:
    """Mean and 95% bootstrap interval.

    Args:
        differences: ``[windows]``, of the mean loss of each, with and without; of the same text, so that how hard a
            window is does not count.
    """
    picks = np.random.default_rng(_SEED).integers(len(differences), size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(differences[picks].mean(axis=1), (2.5, 97.5))
    return LossIncrease(float(differences.mean()), float(low), float(high))
