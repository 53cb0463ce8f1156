"""Recorded expert sets sent through real shards: what the data plane counts of them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.rebalancing.models import TINY
from benchmarks.rebalancing.stage import LocalCluster, Site, counted
from benchmarks.serving.judge import use_tests
from moe_placement import Observed, Placement, balanced_placement
from moe_serving.routing.client import RemoteExperts
from moe_serving.routing.window import Window
from moe_serving.wire.transport import Fabric, SocketFabric

BATCH = 256
"""Rows of a step, as of a prompt."""
SPARE = 128


@dataclass(slots=True)
class Replay:
    """Shards that compute whatever experts a trace names; what their inputs are does not matter.

    Attributes:
        width: values of a row.
        start: the first placement, balanced.
        placement: the one that was last migrated to.
    """

    cluster: LocalCluster
    experts: RemoteExperts[Any]
    width: int
    start: Placement
    placement: Placement
    _told: list[Window] = field(default_factory=list)
    _measured: int = -1

    def __post_init__(self) -> None:
        """Keep what is told to the directory: its report has no visits by shard."""
        take = self.experts.take_windows

        def taken() -> tuple[Window, ...]:
            windows = take()
            self._told += windows
            return windows

        self.experts.take_windows = taken  # type: ignore[method-assign]

    def migrate(self, placement: Placement) -> None:
        """Returns once it is in force."""
        self.cluster.apply(placement, min_copies=1)
        self.cluster.wait_settled()
        self.placement = placement

    def measure(self, placement: Placement, ids: NDArray[np.integer]) -> Observed:
        """Figures of ``ids`` ``[tokens, layers, k]`` by a table of ``placement`` that routes nothing else."""
        if placement == self.placement:
            self.migrate(self.start)
        self.migrate(placement)
        self.send(ids)
        figures = counted(self.cluster, len(ids))
        if figures.rows != len(ids):
            raise RuntimeError(f"epoch {figures.epoch} has had {figures.rows} rows, and {len(ids)} were sent")
        self._measured = figures.epoch
        return Observed(figures.rows, figures.fan_out, figures.node_fan_out, figures.shard_balance)

    def busiest(self) -> float:
        """Of what was measured last: visits per row and layer, had every shard as many as the busiest one has."""
        windows = [window for window in self._told if window.version.epoch == self._measured]
        visits = np.sum([window.visits for window in windows], axis=0)
        rows = np.sum([window.rows for window in windows], axis=0)
        return float(np.mean(visits.max(axis=1) * visits.shape[1] / rows))

    def send(self, ids: NDArray[np.integer]) -> None:
        """Every row through all layers, ``BATCH`` at a time."""
        hidden = torch.zeros(BATCH, self.width)
        for begin in range(0, len(ids), BATCH):
            step = torch.from_numpy(ids[begin : begin + BATCH].astype(np.int64))
            gates = torch.full((len(step), ids.shape[2]), 1 / ids.shape[2])
            for layer in range(ids.shape[1]):
                self.experts.forward(layer, hidden[: len(step)], step[:, layer], gates)


@contextmanager
def replay(
    model: Path,
    shards: int,
    slots: int,
    width: int,
    sites: Sequence[Site] = (),
    fabric: Callable[[SocketFabric], Fabric[Any]] = lambda sockets: sockets,
) -> Iterator[Replay]:
    """``shards`` shards of ``model`` with ``slots`` slots each, whose rows have ``width`` values; in turn on ``sites``
    where these are given. ``fabric``: see ``LocalCluster.client``."""
    # Room for both placements: how they are exchanged is not what is measured.
    with LocalCluster.start(model, shards, spare_slots=SPARE, sites=sites) as cluster:
        cluster.look_seconds = 0.25
        start = balanced_placement(cluster.facts.layers, cluster.facts.experts, [slots] * shards, 1)
        cluster.apply(start, min_copies=1)
        cluster.wait_settled()
        # Beside all shards where they are on one node, and where they are not on none of theirs.
        client = cluster.client(node="attention", through=fabric) if sites else cluster.client(through=fabric)
        yield Replay(cluster, client, width, start, start)


@contextmanager
def stand_in(experts: int, layers: int, top_k: int) -> Iterator[tuple[Path, int]]:
    """A checkpoint with the geometry of a trace, as small as can be, and its width; ``models/tiny`` where that fits."""
    if (experts, layers, top_k) == (16, 6, 2):
        yield TINY, 256
        return
    use_tests()
    from reference import build_checkpoint  # noqa: PLC0415 - imports torch

    with tempfile.TemporaryDirectory(prefix="moe-bench-") as folder:
        sizes = {"num_experts": experts, "num_hidden_layers": layers, "num_experts_per_tok": top_k}
        yield build_checkpoint("olmoe", Path(folder), **sizes), 64
