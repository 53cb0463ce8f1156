"""Pictures of what a placement does: co-activation of experts, the same of copies in order of shards, loads of shards.

Both are departures from what is usual (0 for a lift's logarithm, 1 for a load), and so colours diverge from there. A
few extreme values set no scale: what lies beyond is shown in colours of its own, and counted. matplotlib (the extra
``plots``) is imported only here and only when a picture is drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import instance, new_file, wholes
from moe_placement.errors import MismatchError, PlacementError
from moe_placement.expected import check_same_model
from moe_placement.placement import Placement
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology

_MOST_LAYERS = 256
"""In one picture."""
_MOST_CELLS = 1 << 26
"""The same: pairs of copies, over all layers drawn; a few of 8 bytes each are kept for every one."""
BEYOND = ("#00d5c0", "#ffb000")
"""Colours of values below and above the scale."""
_NO_VALUE = "0.8"
_SHARD_LINE, _NODE_LINE = ("0.35", 0.7), ("black", 1.4)
"""Colour, and width in points."""

Floats = NDArray[np.float64]


def draw(
    path: str | Path, statistics: RoutingStatistics, placement: Placement, topology: Topology,
    layers: Sequence[int] | None = (0,),
) -> None:  # fmt: skip
    """Write a picture; the suffix decides: ``.png`` or ``.svg``. The loads are always of all layers.

    Args:
        path: ends in ``.png`` or ``.svg``.
        statistics: of the placement's model.
        placement: what is drawn.
        topology: its shards; their nodes are told apart, and a shard's fair part is by its speed.
        layers: whose co-activation is drawn, as one picture; None for all.

    Raises:
        PlacementError: matplotlib is missing, an unknown suffix, no such folder, no such layer, or too many.
        MismatchError: statistics of another model, or a topology of other shards.
    """
    instance(PlacementError, "statistics", statistics, RoutingStatistics)
    instance(PlacementError, "placement", placement, Placement)
    instance(PlacementError, "topology", topology, Topology)
    check_same_model(statistics, placement)
    if placement.shards != topology.shards:
        raise MismatchError(f"the placement has {placement.shards} shards, the topology {topology.shards}")
    new_file(PlacementError, path, (".png", ".svg"))
    chosen = wholes(
        PlacementError, "layers", range(placement.layers) if layers is None else layers, most=placement.layers - 1
    )
    check_size(len(chosen), int(placement.copies.sum(axis=1).max(initial=0)))
    picture(statistics, placement, topology, chosen).savefig(path)


def check_size(layers: int, copies: int) -> None:
    """Whether so many layers of so many copies can be one picture.

    Raises:
        PlacementError: they cannot; the message says how many layers could.
    """
    most = min(_MOST_LAYERS, _MOST_CELLS // max(copies, 1) ** 2)
    if not 1 <= layers <= most:
        raise PlacementError(f"{layers} layers of {copies} copies in one picture; it can show at most {most}")


def picture(statistics: RoutingStatistics, placement: Placement, topology: Topology, layers: Sequence[int]) -> Any:
    """The ``matplotlib.figure.Figure`` that ``draw`` writes.

    Raises:
        PlacementError: matplotlib is missing.
    """
    try:
        import matplotlib  # noqa: F401, PLC0415 - an extra
    except ImportError as error:
        raise PlacementError("pictures need matplotlib: pip install matplotlib") from error
    lifts = {layer: log_lift(statistics, layer) for layer in layers}
    above = np.triu_indices(statistics.shape.experts, k=1)
    bound = scale_of(np.concatenate([lift[above] for lift in lifts.values()]))
    paper = _one_layer() if len(layers) == 1 else _several_layers(len(layers))
    if paper.by_number is not None:
        _matrix(paper.by_number, lifts[layers[0]], bound, f"layer {layers[0]}: co-activation, experts by number")
    for axis, layer in zip(paper.by_shard, layers, strict=True):
        order, shard_ends, node_ends = by_shard(placement, topology, layer)
        between = lifts[layer][np.ix_(order, order)]
        between[order[:, None] == order] = np.nan  # copies of one expert say nothing of each other
        image = _matrix(axis, between, bound, paper.title.format(layer))
        _lines(axis, shard_ends, node_ends, rows=True, width=1.0 if len(layers) == 1 else 0.4)
    _colours(paper.upper, image, paper.beside_scale, "log2 lift", list(lifts.values()), bound, 0.0)
    _loads(paper.lower, paper.loads, statistics, placement, topology, layers)
    return paper.figure


@dataclass(frozen=True, slots=True)
class _Paper:
    """Where what goes; all are matplotlib's.

    Attributes:
        figure: all of it.
        upper, lower: the parts of the figure that co-activation and loads are in.
        by_number: axes of experts by number; None where there is no room.
        by_shard: axes of each layer.
        loads: axes.
        beside_scale: axes that the scale of co-activation stands beside.
        title: of each layer, with a place for its number.
    """

    figure: Any
    upper: Any
    lower: Any
    by_number: Any
    by_shard: list[Any]
    loads: Any
    beside_scale: list[Any]
    title: str


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - an extra
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _one_layer() -> _Paper:
    figure = _figure(17, 5)
    by_number, axis, loads = figure.subplots(1, 3)
    title = "layer {}: co-activation, copies by shard"
    return _Paper(figure, figure, figure, by_number, [axis], loads, [by_number, axis], title)


def _several_layers(count: int) -> _Paper:
    """A grid of layers, and loads below."""
    columns = math.ceil(math.sqrt(1.6 * count))
    rows = math.ceil(count / columns)
    figure = _figure(max(9.0, 2.4 * columns), 2.6 * rows + 4.5)
    upper, lower = figure.subfigures(2, 1, height_ratios=[2.6 * rows, 4.5])
    upper.suptitle("co-activation, copies by shard (thin lines) and node (thick lines)")
    axes = list(upper.subplots(rows, columns, squeeze=False).ravel())
    for unused in axes[count:]:
        unused.set_axis_off()
    return _Paper(figure, upper, lower, None, axes[:count], lower.subplots(), axes, "layer {}")


def scale_of(departures: Floats) -> float:
    """How far from its centre a scale goes: to the largest of these departures, but at most to 4.5 times their median
    (of normal ones 0.2% lie beyond that). NaN and exact zeros count for nothing.
    """
    size = np.abs(departures[np.isfinite(departures) & (departures != 0)])
    if not len(size):
        return 1.0
    return float(min(size.max(), 4.5 * np.quantile(size, 0.5, method="lower")))


def by_shard(
    placement: Placement, topology: Topology, layer: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """int64 ``[copies]``: the expert of each copy, shard by shard and node by node; and where shards and nodes end in
    this order, both without the last.
    """
    shards = shard_order(topology)
    held = placement.held_in(layer)[:, shards]
    ends = np.cumsum(held.sum(axis=0))
    last_of_node = np.append(np.diff(topology.node_index[shards]) != 0, True)
    return np.nonzero(held.T)[1], ends[:-1], ends[last_of_node][:-1]


def shard_order(topology: Topology) -> NDArray[np.int64]:
    """int64 ``[shards]``: shards node by node."""
    return np.argsort(topology.node_index, kind="stable")


def log_lift(statistics: RoutingStatistics, layer: int) -> Floats:
    """float64 ``[experts, experts]``: log2 of how much more often than by chance two experts are chosen together."""
    load = statistics.load[layer]
    expected = np.outer(load, load) / max(statistics.tokens, 1e-300)
    lift = np.log2((statistics.pairs[layer] + 0.5) / (expected + 0.5))
    np.fill_diagonal(lift, 0)
    return np.asarray(lift, dtype=np.float64)


def relative_loads(statistics: RoutingStatistics, placement: Placement, topology: Topology) -> Floats:
    """float64 ``[layers, shards]``: each shard's load by its fair part, with an expert's load spread evenly over its
    copies; NaN for a shard that has no part, and in layers without traffic.
    """
    per_copy = statistics.load / np.maximum(placement.copies, 1)
    load = np.einsum("le,leg->lg", per_copy, placement.held)
    fair = load.sum(axis=1, keepdims=True) * topology.share
    return np.where(fair > 0, load / np.where(fair > 0, fair, 1.0), np.nan)


def _matrix(axis: Any, values: Floats, bound: float, title: str) -> Any:
    image = axis.imshow(values, cmap=_diverging(), vmin=-bound, vmax=bound, interpolation="nearest")
    axis.set_title(title)
    return image


def _diverging() -> Any:
    from matplotlib import colormaps  # noqa: PLC0415 - an extra

    return colormaps["RdBu_r"].with_extremes(under=BEYOND[0], over=BEYOND[1], bad=_NO_VALUE)


def _lines(
    axis: Any, shard_ends: NDArray[np.int64], node_ends: NDArray[np.int64], rows: bool = False, width: float = 1.0
) -> None:
    """Lines after so many columns, and as many rows if so asked, across the image that is there; one artist of each
    kind, since there may be tens of thousands.
    """
    from matplotlib.collections import LineCollection  # noqa: PLC0415 - an extra

    left, right, bottom, top = axis.images[0].get_extent()
    for ends, (color, usual) in ((shard_ends, _SHARD_LINE), (node_ends, _NODE_LINE)):
        at = ends - 0.5
        lines = [((x, bottom), (x, top)) for x in at]
        lines += [((left, y), (right, y)) for y in at] if rows else []
        axis.add_collection(LineCollection(lines, colors=color, linewidths=usual * width), autolim=False)


def _colours(
    figure: Any, image: Any, axes: Sequence[Any], label: str, drawn: Sequence[Floats], bound: float, centre: float
) -> None:
    """The scale beside ``axes``, which says how many values lie beyond it."""
    values = np.concatenate([array.ravel() for array in drawn]) - centre
    below, above = int((values < -bound).sum()), int((values > bound).sum())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    if below or above:
        label += f" ({below + above} beyond the scale)"
    figure.colorbar(image, ax=list(axes), label=label, shrink=0.7, extend=extend[below > 0, above > 0])


def _loads(
    figure: Any, axis: Any, statistics: RoutingStatistics, placement: Placement, topology: Topology,
    layers: Sequence[int],
) -> None:  # fmt: skip
    order = shard_order(topology)
    values = relative_loads(statistics, placement, topology)[:, order]
    bound = scale_of(values - 1.0)
    image = axis.imshow(
        values, aspect="auto", cmap=_diverging(), vmin=1 - bound, vmax=1 + bound, interpolation="nearest"
    )
    node = topology.node_index[order]
    _lines(axis, np.arange(1, len(order)), np.flatnonzero(np.diff(node)) + 1)
    ticks = np.unique(np.linspace(0, len(order) - 1, min(len(order), 16)).round().astype(int))
    axis.set_xticks(ticks, [str(order[tick]) for tick in ticks])
    axis.yaxis.get_major_locator().set_params(integer=True)
    axis.set(title="load of each shard; 1 is its fair part (thick lines: nodes)", xlabel="shard", ylabel="layer")
    if len(layers) < placement.layers:
        axis.plot([-0.5] * len(layers), list(layers), ">", color="black", markersize=6, clip_on=False)
    _colours(figure, image, [axis], "load", [values], bound, 1.0)
