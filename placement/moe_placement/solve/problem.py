"""What is known of one layer when it is placed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

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
        local: whether all copies of an expert belong on one node.
        seed: of the search.
        slack: load above its share that a part may carry before it is penalised.
        covariance: float64 ``[experts, experts]`` of ``load`` from window to window; None where not known.
        risk: standard deviations that are added to the load of a part.
        elsewhere: int64 ``[experts]`` copies in other regions, which can take over when load surges here.
        thorough: whether to search long; not where a few changes are sought, or many splits follow one another.
    """

    load: Floats
    sets: Ints
    pairs: NDArray[np.float32]
    least: Ints
    local: bool
    seed: int
    slack: float = SLACK
    covariance: Floats | None = None
    risk: float = 0.0
    elsewhere: Ints | int = 0
    thorough: bool = True
