"""Adaptive routing in force: rule, curve and controller, for the layers of one attention replica's steps."""

from __future__ import annotations

import numpy as np

from moe_placement.dispatch import NO_EXPERT
from moe_serving.adaptive.controller import SavingController
from moe_serving.adaptive.curve import Curve
from moe_serving.adaptive.rule import Experts, Weights, thin


class Thinning:
    """For the engine's thread. Thresholds are the same in all layers of a step: they move between two.

    Args:
        asked: percent of pairs to be saved.
        most_loss: increase of the loss on held-out text that no thresholds in force may exceed; see
            ``Curve.reach``.
    """

    def __init__(self, curve: Curve, asked: float, most_loss: float) -> None:
        self._curve = curve
        self._controller = SavingController(asked, curve.reach(most_loss))
        self._thresholds = curve.thresholds(self._controller.place).tolist()
        self._pairs = self._skipped = 0

    @property
    def place(self) -> float:
        """See ``SavingController``."""
        return self._controller.place

    def thin(self, layer: int, ids: Experts, weights: Weights) -> tuple[Experts, Weights]:
        """See ``rule.thin``."""
        if layer == 0:
            self._begin_step()
        kept, scaled = thin(ids, weights, self._thresholds[layer])
        self._pairs += ids.size
        if kept is not ids:
            self._skipped += int(np.count_nonzero(kept == NO_EXPERT))
        return kept, scaled

    def _begin_step(self) -> None:
        if self._controller.note(self._pairs, self._skipped):
            self._thresholds = self._curve.thresholds(self._controller.place).tolist()
        self._pairs = self._skipped = 0
