"""Pictures of what a placement does: loads by shard, and co-activation before and after reordering by shard.

matplotlib (the extra ``plots``) is imported only here and only when a picture is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import instance, new_file, whole
from moe_placement.errors import PlacementError
from moe_placement.expected import check_same_model
from moe_placement.placement import Placement
from moe_placement.statistics import RoutingStatistics


def draw(path: str | Path, statistics: RoutingStatistics, placement: Placement, layer: int) -> None:
    """Write a picture of one layer; the suffix decides: ``.png`` or ``.svg``.

    Raises:
        PlacementError: matplotlib is missing, an unknown suffix, no such folder, or no such layer.
        MismatchError: statistics of another model.
    """
    instance(PlacementError, "statistics", statistics, RoutingStatistics)
    instance(PlacementError, "placement", placement, Placement)
    check_same_model(statistics, placement)
    new_file(PlacementError, path, (".png", ".svg"))
    whole(PlacementError, "layer", layer, most=placement.layers - 1)
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError as error:
        raise PlacementError("pictures need matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(15, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3)
    order = by_shard(placement, layer)
    lift = _log_lift(statistics, layer)
    _matrix(figure, axes[0], lift, "co-activation, experts by number")
    _matrix(figure, axes[1], lift[np.ix_(order, order)], "co-activation, experts by shard")
    _loads(figure, axes[2], statistics, placement)
    figure.savefig(path)


def by_shard(placement: Placement, layer: int) -> NDArray[np.int64]:
    """int64 ``[experts]``: experts in the order of the first shard that holds them."""
    return np.argsort(placement.held[layer].argmax(axis=1), kind="stable")


def _log_lift(statistics: RoutingStatistics, layer: int) -> NDArray[np.float64]:
    load = statistics.load[layer]
    expected = np.outer(load, load) / max(statistics.tokens, 1e-300)
    lift = np.log2((statistics.pairs[layer] + 0.5) / (expected + 0.5))
    np.fill_diagonal(lift, 0)
    return np.asarray(lift, dtype=np.float64)


def _matrix(figure: Any, axis: Any, values: NDArray[np.float64], title: str) -> None:
    bound = max(float(np.abs(values).max(initial=0)), 1e-9)
    image = axis.imshow(values, cmap="RdBu_r", vmin=-bound, vmax=bound, interpolation="nearest")
    axis.set_title(title)
    figure.colorbar(image, ax=axis, label="log2 lift", shrink=0.7)


def _loads(figure: Any, axis: Any, statistics: RoutingStatistics, placement: Placement) -> None:
    per_copy = statistics.load / np.maximum(placement.copies, 1)
    shard = np.einsum("le,leg->lg", per_copy, placement.held)
    mean = np.maximum(shard.mean(axis=1, keepdims=True), 1e-300)
    image = axis.imshow(shard / mean, aspect="auto", cmap="viridis", interpolation="nearest")
    axis.set(title="load of each shard, relative to the mean", xlabel="shard", ylabel="layer")
    figure.colorbar(image, ax=axis, shrink=0.7)
