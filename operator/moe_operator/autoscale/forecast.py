"""How busy shards become by a placement, and how even. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement import Placement


def shares(placement: Placement, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """float64 ``[layers, shards]``: the part of each layer's pairs that each shard gets, copies of an expert getting
    equal parts; zeros for a layer without any pairs.

    Args:
        counts: ``[layers, experts]``, pairs.
    """
    layer, expert, shard = placement.holders
    copies = np.zeros((placement.layers, placement.experts))
    np.add.at(copies, (layer, expert), 1.0)
    work = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    found = np.zeros((placement.layers, placement.shards))
    np.add.at(found, (layer, shard), work[layer, expert] / copies[layer, expert])
    return found


def busiest(part: NDArray[np.float64]) -> float:
    """The part of all work that the busiest shard gets; 0 without any. ``part``: see ``shares``."""
    total = float(part.sum())
    return float(part.sum(axis=0).max()) / total if total else 0.0


def balance(part: NDArray[np.float64], shards: int) -> float:
    """Mean load of ``shards`` shards divided by that of the busiest, by layer, averaged; 1 is perfect, also without
    any load. ``part``: see ``shares``."""
    worked = part[part.sum(axis=1) > 0]
    return float((worked.sum(axis=1) / shards / worked.max(axis=1)).mean()) if len(worked) else 1.0
