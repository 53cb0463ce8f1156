"""All experts of a model in the memory of this process's GPU: MoE layers are answered without a copy to the host."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_serving.engine.experts import Computed, ExpertsClient
from moe_serving.gpu.experts import Tuning, compute_experts
from moe_serving.gpu.table import ExpertTable


class ResidentExperts(ExpertsClient):
    """Nothing of it waits for the device.

    Args:
        tables: of each MoE layer, its experts by number.
        tuning: of all.
    """

    def __init__(self, tables: Sequence[ExpertTable], tuning: Tuning) -> None:
        self._tables = tables
        self._tuning = tuning

    def submit(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Computed:
        """See ``ExpertsClient.submit``."""
        out = torch.empty_like(hidden)
        compute_experts(hidden, expert_ids, weights.float(), self._tables[layer], out, self._tuning)
        return Computed(out)
