"""Load shapes and the levelled load that both contestants are judged by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement import Placement
from moe_placement.expected import expected_figures
from moe_placement.topology import Topology

Floats = NDArray[np.float64]


def shaped(shape: str, layers: int, experts: int, random: np.random.Generator) -> Floats:
    """float64 ``[layers, experts]`` loads, each layer summing to 1, of ``lognormal-SIGMA`` or ``zipf-EXPONENT``."""
    kind, parameter = shape.split("-")
    if kind == "lognormal":
        load = np.exp(float(parameter) * random.normal(size=(layers, experts)))
    else:
        ranked = 1.0 / np.arange(1, experts + 1) ** float(parameter)
        load = np.stack([random.permutation(ranked) for _ in range(layers)])
    return load / load.sum(axis=1, keepdims=True)


def even_split(load: Floats, placement: Placement, topology: Topology) -> Floats:
    """float64 ``[layers, shards]``: relative load of each shard if every copy gets the same part of its expert."""
    per_copy = load / placement.copies
    return np.einsum("le,leg->lg", per_copy, placement.held) / topology.share


def levelled_balance(load: Floats, placement: Placement, topology: Topology) -> Floats:
    """float64 ``[layers]``: mean / max under least-loaded dispatch in the fluid limit."""
    return np.array(
        [expected_figures(load[layer], placement.held[layer], topology, 8).shard_balance for layer in range(len(load))]
    )
