"""Figures of a placement from loads alone, and from whatever statistics hold: what planner and decision compare."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.cost import LayerTraffic
from moe_placement.dispatch import copies_of, live_copies
from moe_placement.errors import MismatchError
from moe_placement.placement import Placement
from moe_placement.simulation import Figures, figures_of, judge, summarise
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology


def figures_on(statistics: RoutingStatistics, placement: Placement, topology: Topology) -> Figures:
    """Figures on the sampled sets, or on the loads where there is no sample.

    Raises:
        MismatchError: statistics of another model than the placement's, a topology with other shards, or an expert on
            dead shards only.
    """
    check_same_model(statistics, placement)
    held = [live_copies(placement, topology, layer) for layer in range(placement.layers)]
    ids = statistics.sample.ids
    experts, top_k = statistics.shape.experts, statistics.shape.top_k
    if len(ids):
        return summarise(
            judge(ids[:, layer], copies_of(held[layer], topology), topology, experts)
            for layer in range(placement.layers)
        )
    return summarise(
        expected_figures(statistics.load[layer], held[layer], topology, top_k) for layer in range(placement.layers)
    )


def check_same_model(statistics: RoutingStatistics, placement: Placement) -> None:
    """Raise ``MismatchError`` where layers or experts differ."""
    if (statistics.shape.layers, statistics.shape.experts) != (placement.layers, placement.experts):
        raise MismatchError(
            f"statistics of {statistics.shape}, but the placement has {placement.layers} layers of "
            f"{placement.experts} experts"
        )


def expected_figures(load: NDArray[np.float64], held: NDArray[np.bool_], topology: Topology, top_k: int) -> Figures:
    """One layer from its loads ``[experts]``: least-loaded dispatch in the fluid limit; visits are not known (0)."""
    from moe_placement.solver.level import copies_in, level  # noqa: PLC0415 - Numba is loaded only where it is needed

    usable = np.where(topology.share > 0, topology.share, 1e-12)
    total = float(load.sum())
    even = load / total if total > 0 else np.full(len(load), 1.0 / len(load))
    state = copies_in(even, usable, np.ascontiguousarray(held))
    level(state, 12)
    copies = np.flatnonzero(held)
    tokens = topology.costs.tokens_per_step
    nowhere = np.zeros(topology.nodes)
    copy_load = state.part.ravel()[copies] * (tokens * top_k)
    traffic = LayerTraffic(tokens, copy_load, copies % topology.shards, np.zeros(topology.shards), nowhere, nowhere)
    return figures_of(traffic, 0.0, 0.0, topology)
