"""Which experts will the next layer want? Guesses from ids alone, for warming and prefetch, never for correctness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moe_placement.checks import experts_once, ids, instance, real, whole
from moe_placement.errors import InvalidPolicyError, InvalidStatisticsError
from moe_placement.statistics import RoutingStatistics

Method = Literal["popularity", "conditional", "naive-bayes"]


@dataclass(frozen=True, slots=True)
class Score:
    """Of guesses against what was chosen: ``recall`` of the chosen within the guesses, ``f1`` with precision."""

    recall: float
    f1: float


class NextLayerPredictor:
    """Scores the next layer's experts for tokens whose experts in a layer are known.

    - popularity: how often each expert is chosen at all.
    - conditional: the sum of P(next | expert) over the token's experts.
    - naive-bayes: log popularity + the sum of log-lifts log(P(next, expert) / (P(next) P(expert))), smoothed.

    Raises:
        InvalidPolicyError: no such method, or a smoothing that is not above 0.
        InvalidStatisticsError: fewer than two layers, or no traffic.
    """

    def __init__(self, statistics: RoutingStatistics, method: Method = "naive-bayes", smoothing: float = 0.5) -> None:
        instance(InvalidStatisticsError, "statistics", statistics, RoutingStatistics)
        if method not in get_args(Method):
            raise InvalidPolicyError(f"method is {method!r}; it must be one of {', '.join(get_args(Method))}")
        real(InvalidPolicyError, "smoothing", smoothing, above=True)
        if statistics.shape.layers < 2 or statistics.tokens <= 0:
            raise InvalidStatisticsError(
                f"a predictor needs at least 2 layers and some traffic, got {statistics.shape.layers} layers and "
                f"{statistics.tokens:g} tokens"
            )
        self._tables, self._bases = [], []
        for layer in range(statistics.shape.layers - 1):
            joint = statistics.transitions[layer].astype(np.float64)
            now, after = statistics.load[layer], statistics.load[layer + 1]
            popularity = (after + smoothing) / (after.sum() + smoothing * len(after))
            if method == "popularity":
                table, base = np.zeros_like(joint), popularity
            elif method == "conditional":
                table, base = joint / np.maximum(now[:, None], 1), 1e-9 * popularity
            else:
                expected = now[:, None] * after[None, :] / statistics.tokens
                table, base = np.log((joint + smoothing) / (expected + smoothing)), np.log(popularity)
            self._tables.append(table)
            self._bases.append(base)

    def guess(self, layer: int, ids: ArrayLike, count: int) -> NDArray[np.int64]:
        """int64 ``[tokens, min(count, experts)]``: likely experts of layer + 1 for ids ``[tokens, k]`` of ``layer``.

        Raises:
            InvalidPolicyError: no such layer, or a count below 1.
            InvalidStatisticsError: ids of another shape or out of range, or an expert twice in one set.
        """
        whole(InvalidPolicyError, "layer", layer, most=len(self._tables) - 1)
        whole(InvalidPolicyError, "count", count, 1)
        known = self._checked(ids, "[tokens, k]")
        table = np.vstack([self._tables[layer], np.zeros(self._tables[layer].shape[1])])  # row -1: no expert
        scores = self._bases[layer] + table[known].sum(axis=1)
        count = min(count, scores.shape[1])
        return np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int64)

    def score(self, ids: ArrayLike, count: int) -> Score:
        """Mean over layers and tokens of a trace ``[tokens, layers, k]``; 0 for no tokens.

        Raises:
            InvalidPolicyError, InvalidStatisticsError: as ``guess``, or ids of another number of layers.
        """
        sets = self._checked(ids, "[tokens, layers, k]")
        if sets.shape[1] != len(self._tables) + 1:
            raise InvalidStatisticsError(f"ids have {sets.shape[1]} layers, the statistics had {len(self._tables) + 1}")
        hits = chosen = guessed = 0
        for layer in range(len(self._tables)):
            guesses = self.guess(layer, sets[:, layer], count)
            wanted = sets[:, layer + 1]
            hits += int((guesses[:, :, None] == wanted[:, None, :]).sum())
            chosen += int((wanted >= 0).sum())
            guessed += guesses.size
        recall, precision = hits / max(chosen, 1), hits / max(guessed, 1)
        return Score(recall, 2 * recall * precision / max(recall + precision, 1e-12))

    def _checked(self, values: ArrayLike, shape: str) -> NDArray[np.int64]:
        sets = ids(InvalidStatisticsError, "ids", values, shape, len(self._tables[0]))
        experts_once(InvalidStatisticsError, sets)
        return sets
