"""Verify mode: every answer is computed a second time from the checkpoint and compared bit for bit.

Both sides compute row by row, so an answer's bits depend neither on the batch nor on who else was in it: a wrong,
half-copied, lost or doubled expert shows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moe_serving.checkpoint.reader import ExpertReader, ExpertWeights
from moe_serving.experts.compute import pair_output
from moe_serving.routing.errors import VerificationError


class LayerVerifier:
    """Holds the experts that were used so far, read from the checkpoint by itself."""

    def __init__(self, reader: ExpertReader, device: torch.device) -> None:
        self._reader = reader
        self._device = device
        self._weights: dict[tuple[int, int], ExpertWeights] = {}

    def check(self, layer: int, hidden: Tensor, expert_ids: Tensor, weights: Tensor, outputs: Tensor) -> None:
        """Compare ``outputs``, float32 ``[T, K, H]``, with the recomputed ones.

        Raises:
            VerificationError: names the layer, the token and the expert of the first difference.
        """
        torch.set_num_threads(1)  # as in the shards: how a product is split among threads may change its last bit
        for token, chosen in enumerate(expert_ids.tolist()):
            row = hidden[token : token + 1].to(self._device).clone()
            for place, expert in enumerate(chosen):
                expected = pair_output(self._expert(layer, expert), row, float(weights[token, place])).cpu()[0]
                if not torch.equal(expected, outputs[token, place]):
                    worst = (expected - outputs[token, place]).abs().max().item()
                    raise VerificationError(
                        f"layer {layer}: expert {expert} answered row {token} with other bits than the checkpoint's "
                        f"(largest difference {worst:.3g}); the copy that answered is damaged or of another model"
                    )

    def _expert(self, layer: int, expert: int) -> ExpertWeights:
        key = (layer, expert)
        if key not in self._weights:
            self._weights[key] = self._reader.read(layer, expert)
        return self._weights[key]
