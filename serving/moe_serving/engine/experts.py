"""The engine's view of experts: an answer for rows of a layer, wherever the experts are."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class ExpertsClient(Protocol):
    """Computes MoE layers. Called by the engine thread, one layer at a time, and may block.

    Tensors that it is given are its own until it returns: the engine overwrites them with those of the next layer.
    """

    def forward(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
        """Gate-weighted sums of the chosen experts' outputs.

        Args:
            layer: number of the MoE layer, ``0 .. layers - 1`` (dense layers are not counted).
            hidden: ``[T, H]`` rows, one per token.
            expert_ids: int64 ``[T, K]``.
            weights: ``[T, K]``, the gate's weight of each chosen expert.

        Returns:
            ``[T, H]`` in the dtype and on the device of ``hidden``.

        Raises:
            ExpertsUnavailableError: no live copy of some expert answered in time.
        """
        ...
