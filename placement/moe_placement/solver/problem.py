"""What is known of one layer when it is placed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNLIMITED = 1 << 30
"""A budget that is none."""
SLACK = 0.004
"""Default of ``LayerProblem.slack``."""


@dataclass(frozen=True, slots=True)
class LayerProblem:
    """What is known of one layer.

    Attributes:
        load: float64 ``[experts]``, summing to 1.
        sets: int64 ``[n, k]`` sampled expert sets, -1 for none.
        pairs: float32 ``[experts, experts]`` tokens that chose both.
        least: int64 ``[experts]`` copies that each expert must have.
        elsewhere: int64 ``[experts]`` copies in other regions, which can take over when load surges here.
        local: whether all copies of an expert belong on one node.
        seed: of the search.
        slack: load above its share that a part may carry before it is penalised.
        covariance: float64 ``[experts, experts]`` of the layer's loads from window to window; None where not known.
        weight: float64 ``[experts]``, what part of the layer's load of each expert is this problem's.
        risk: standard deviations that the load of a part may rise by.
        thorough: whether to search long; not where a few changes are sought, or many splits follow one another.
        deadline: of the monotonic clock, in seconds; no search begins after it.
    """

    load: Floats
    sets: Ints
    pairs: NDArray[np.float32]
    least: Ints
    elsewhere: Ints
    local: bool
    seed: int
    slack: float = SLACK
    covariance: Floats | None = None
    weight: Floats | None = None
    risk: float = 0.0
    thorough: bool = True
    deadline: float = math.inf

    def covariance_among(self, experts: Ints | slice) -> Floats:
        """float64 ``[n, n]`` of this problem's part of some experts' loads; ``covariance`` must be known.

        Made when asked for: a table for each part of each split, most never looked at, would take longer than the rest.
        """
        covariance = np.zeros((0, 0)) if self.covariance is None else self.covariance
        if not isinstance(experts, slice):
            covariance = covariance[np.ix_(experts, experts)]
        if self.weight is None:
            return covariance
        weight = self.weight[experts]
        return covariance * np.outer(weight, weight)
