"""All experts in this process: the arithmetic of transformers' eager experts, step by step, without shards.

The reference that distributed experts are compared with, and an ``ExpertsClient`` for tests and benchmarks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.engine.experts import Computed, ExpertsClient
from moe_serving.experts.compute import ACTIVATIONS


class LocalExperts(ExpertsClient):
    """Holds every expert of the checkpoint."""

    def __init__(self, path: str | Path, dtype: str, device: str) -> None:
        reader = ExpertReader(path, dtype, device)
        config = reader.checkpoint.config
        self._activation = ACTIVATIONS[config.activation]
        self._layers = [
            [reader.read(layer, expert) for expert in range(config.experts)] for layer in range(len(config.moe_layers))
        ]

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Computed:
        """See ``ExpertsClient.submit``; experts are added up in ascending order, as transformers does it."""
        out = torch.zeros_like(hidden)
        for expert in torch.unique(expert_ids).tolist():
            rows, place = torch.where(expert_ids == expert)
            own = self._layers[layer][expert]
            gate, up = linear(hidden[rows], own.gate_up).chunk(2, dim=-1)
            answer = linear(self._activation(gate) * up, own.down) * weights[rows, place, None]
            out.index_add_(0, rows, answer.to(out.dtype))
        return Computed(out)
