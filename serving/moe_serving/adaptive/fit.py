"""From what gates choose, and how much each layer minds, to thresholds that save a given part of all pairs.

A row from which the part q of its weight is left out in a layer has its output moved by about q, and what that costs
grows with q^2. How much it costs in a layer is measured once (``Probe``). The cheapest way to save a number of pairs is
then to leave out those of which cost * q^2 is least, whatever layer they are in: a layer's bound of q is in proportion
to 1 / sqrt(cost).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LEAST_THRESHOLD = 0.5
"""Of a row's weight at least half is computed."""
_LEAST_COST = 0.05
"""Of the mean of the layers': one that seems to cost less, or nothing, was not measured well enough to say so."""
_HALVINGS = 50


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What gates chose in one layer.

    Attributes:
        parts: all entries of ``rule.left_out`` of some rows, ascending.
        pairs: of these rows.
    """

    parts: NDArray[np.float64]
    pairs: int

    @classmethod
    def of(cls, left_out: NDArray[np.float64]) -> Layer:
        rows, fewer = left_out.shape
        return cls(np.sort(left_out, axis=None), rows * (fewer + 1))

    def skipped(self, bound: float) -> int:
        """Pairs that are not computed where ``bound`` of a row's weight may be left out."""
        return int(np.searchsorted(self.parts, bound, side="right"))

    def bound(self, saved: float) -> float:
        """What may be left out to save the part ``saved`` of the pairs; ``1 - LEAST_THRESHOLD`` at most."""
        place = min(round(saved * self.pairs), len(self.parts))
        return min(float(self.parts[place - 1]), 1 - LEAST_THRESHOLD) if place else 0.0

    def strain(self, bound: float) -> float:
        """Sum of q^2 of the pairs that are not computed then, per pair."""
        return float((self.parts[: self.skipped(bound)] ** 2).sum() / self.pairs)


@dataclass(frozen=True, slots=True)
class Probe:
    """What it cost to leave pairs out in one layer alone: nats per token, with ``bound`` of a row's weight at most."""

    bound: float
    loss: float


def costs(layers: Sequence[Layer], probes: Sequence[Probe]) -> NDArray[np.float64]:
    """Of each layer, relative to their mean; the same for all where none of them seems to mind."""
    found = np.array([
        max(0.0, probe.loss) / strain if (strain := layer.strain(probe.bound)) > 0 else 0.0
        for layer, probe in zip(layers, probes, strict=True)
    ])  # fmt: skip
    if not found.any():
        return np.ones(len(layers))
    relative: NDArray[np.float64] = found / found.mean()
    return np.maximum(relative, _LEAST_COST)


def thresholds(layers: Sequence[Layer], cost: NDArray[np.float64], saved: float) -> NDArray[np.float64]:
    """``[layers]``, those that save the part ``saved`` of these pairs, or as much as ``LEAST_THRESHOLD`` allows."""
    reach = 1 / np.sqrt(cost)
    most = 1 - LEAST_THRESHOLD

    def bounds(scale: float) -> NDArray[np.float64]:
        return np.minimum(scale * reach, most)

    def is_enough(scale: float) -> bool:
        skipped = sum(layer.skipped(bound) for layer, bound in zip(layers, bounds(scale), strict=True))
        return skipped >= saved * sum(layer.pairs for layer in layers)

    low, high = 0.0, most / float(reach.min())
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return 1 - bounds(high)
