"""Recorded expert sets sent through real shards: what the data plane counts of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.rebalancing.models import TINY
from benchmarks.rebalancing.stage import LocalCluster, counted
from benchmarks.serving.judge import use_tests
from moe_placement import Observed, Placement, balanced_placement
from moe_serving.routing.client import RemoteExperts

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
        return Observed(figures.rows, figures.fan_out, figures.node_fan_out, figures.shard_balance)

    def send(self, ids: NDArray[np.integer]) -> None:
        """Every row through all layers, ``BATCH`` at a time."""
        hidden = torch.zeros(BATCH, self.width)
        for begin in range(0, len(ids), BATCH):
            step = torch.from_numpy(ids[begin : begin + BATCH].astype(np.int64))
            gates = torch.full((len(step), ids.shape[2]), 1 / ids.shape[2])
            for layer in range(ids.shape[1]):
                self.experts.forward(layer, hidden[: len(step)], step[:, layer], gates)


@contextmanager
def replay(model: Path, shards: int, slots: int, width: int) -> Iterator[Replay]:
    """``shards`` shards of ``model`` with ``slots`` slots each, whose rows have ``width`` values."""
    # Room for both placements: how they are exchanged is not what is measured.
    with LocalCluster.start(model, shards, spare_slots=SPARE) as cluster:
        cluster.look_seconds = 0.25
        start = balanced_placement(cluster.facts.layers, cluster.facts.experts, [slots] * shards, 1)
        cluster.apply(start, min_copies=1)
        cluster.wait_settled()
        yield Replay(cluster, cluster.client(), width, start, start)


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
