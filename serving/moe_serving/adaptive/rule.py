"""Which of a row's experts are computed: the strongest ones, until their part of its gate weights reaches a threshold.

What the others would have weighed goes to those that are kept, in proportion, so that a row's weights have the same sum
as before: some families scale them, and it is not 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NO_EXPERT

Experts = NDArray[np.int64]
Weights = NDArray[np.float32]


def thin(ids: Experts, weights: Weights, threshold: float) -> tuple[Experts, Weights]:
    """The pairs of some rows that are computed.

    A row of which weights are negative, or add up to nothing or to no number, is left as it is.

    Args:
        ids: ``[rows, k]``, the experts chosen.
        weights: ``[rows, k]``, their gate weights.
        threshold: part of a row's weight, 0 to 1; from 1 on all pairs are kept.

    Returns:
        The same arrays where all pairs are kept. Else new ones, with each row's experts by falling weight, so that its
        strongest is the first, ``NO_EXPERT`` and 0 in place of those that are not computed.
    """
    if threshold >= 1.0 or not ids.size:
        return ids, weights
    order = np.argsort(-weights, axis=1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=1)
    sums = np.cumsum(ranked, axis=1, dtype=np.float64)
    kept = np.ones(ids.shape, dtype=bool)
    kept[:, 1:] = ~((sums[:, :-1] >= threshold * sums[:, -1:]) & _is_sane(ranked, sums))
    if kept.all():
        return ids, weights
    last = kept.sum(axis=1, keepdims=True) - 1
    scale = np.ones((len(ids), 1))
    np.divide(sums[:, -1:], np.take_along_axis(sums, last, axis=1), where=last < ids.shape[1] - 1, out=scale)
    return (
        np.where(kept, np.take_along_axis(ids, order, axis=1), NO_EXPERT),
        np.where(kept, ranked * scale, 0).astype(weights.dtype),
    )


def left_out(weights: Weights) -> NDArray[np.float64]:
    """``[rows, k - 1]``: what part of a row's weight is missing when only its 1, 2, … strongest experts are computed.

    ``thin`` leaves out so many pairs of a row as there are entries of at most ``1 - threshold`` in it; 1 for a row that
    it leaves as it is.
    """
    ranked = -np.sort(-weights, axis=1)
    sums = np.cumsum(ranked, axis=1, dtype=np.float64)
    parts = np.ones((len(weights), weights.shape[1] - 1))
    np.divide(sums[:, -1:] - sums[:, :-1], sums[:, -1:], where=_is_sane(ranked, sums), out=parts)
    return parts


def _is_sane(ranked: Weights, sums: NDArray[np.float64]) -> NDArray[np.bool_]:
    """``[rows, 1]``."""
    total = sums[:, -1:]
    return (total > 0) & np.isfinite(total) & (ranked[:, -1:] >= 0)
