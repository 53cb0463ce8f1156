"""Where a deployment is busy, in few words: for the status of a MoEDeployment and for whoever asks the API.

Shares are in parts of 10,000, so that the whole takes less than 4 KB, whatever the size of model and deployment.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from moe_contract.base import Count, WireModel
from moe_contract.report import PARTS, DirectoryReport
from moe_contract.sizes import MOST_SHARDS, MOST_SLOTS
from moe_placement.encoding import decode_counts
from moe_placement.errors import InvalidStatisticsError

MOST_BANDS = 3
BUSIEST = 10
MOST_TEXT = 4096
SHARES_PATTERN = "^([0-9]{1,5}( [0-9]{1,5})*)?$"
EXPERT_PATTERN = "^[0-9]{1,4}/[0-9]{1,5} [0-9]{1,5}$"
LAYERS_PATTERN = "^[0-9]{1,4}-[0-9]{1,4}$"

Shares = Annotated[str, Field(max_length=MOST_TEXT, pattern=SHARES_PATTERN)]
BusyExpert = Annotated[str, Field(max_length=20, pattern=EXPERT_PATTERN)]


class LoadBand(WireModel):
    """The busiest experts of neighbouring layers.

    Attributes:
        layers: first and last, such as ``0-19``.
        experts: the busiest first, each as ``layer/expert share``: of the pairs of that layer.
    """

    layers: Annotated[str, Field(pattern=LAYERS_PATTERN)]
    experts: Annotated[tuple[BusyExpert, ...], Field(max_length=BUSIEST)]


class Load(WireModel):
    """Shares of the traffic, of which old one counts less (see ``report.Traffic``).

    Attributes:
        layer_rows: rows through MoE layers since the directory started.
        shards: of the pairs that the last table with traffic sent on, what each shard got, by index; one space between.
        bands: of all layers, in order; empty before there was traffic.
    """

    layer_rows: Count
    shards: Shares
    bands: Annotated[tuple[LoadBand, ...], Field(max_length=MOST_BANDS)]


def load_of(report: DirectoryReport) -> Load | None:
    """What a report tells of the load; None where there was no traffic, or it tells what cannot be or be read."""
    traffic, model = report.traffic, report.model
    if model is None or traffic.load is None or not traffic.layer_rows:
        return None
    if model.layers * model.experts > MOST_SLOTS:
        return None  # nobody places so many, and a short text may unpack to as much
    shares = " ".join(map(str, traffic.shares[:MOST_SHARDS]))
    if len(shares) > MOST_TEXT:
        return None  # more than parts of one whole can take
    try:
        counts = decode_counts(traffic.load, model.layers, model.experts)
    except InvalidStatisticsError:
        return None
    return Load(
        layer_rows=traffic.layer_rows,
        shards=shares,
        bands=tuple(
            _band(counts, layers) for layers in np.array_split(np.arange(model.layers), MOST_BANDS) if len(layers)
        ),
    )


def _band(counts: NDArray[np.int64], layers: NDArray[np.int64]) -> LoadBand:
    """``counts``: pairs ``[layers, experts]`` of the model."""
    ours = counts[layers].astype(np.float64)
    share = ours / np.maximum(ours.sum(axis=1, keepdims=True), 1.0)
    order = np.argsort(-share, axis=None, kind="stable")[:BUSIEST]
    busiest = [(int(layers[at // share.shape[1]]), int(at % share.shape[1]), float(share.flat[at])) for at in order]
    return LoadBand(
        layers=f"{layers[0]}-{layers[-1]}",
        experts=tuple(f"{layer}/{expert} {round(part * PARTS)}" for layer, expert, part in busiest if part > 0),
    )
