"""The whole model in transformers on windows of text, with all pairs or with some left out: losses and choices.

What is left out is given weight 0, so what is computed is what a replica computes, at the cost of all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, PreTrainedModel

from moe_placement.dispatch import NO_EXPERT
from moe_serving.adaptive.fit import Layer
from moe_serving.adaptive.rule import Experts, Weights, left_out, thin
from moe_serving.adaptive.text import STEP_ROWS, Windows
from moe_serving.checkpoint import Checkpoint
from moe_serving.engine.experts import ExpertsClient

_Hook = Callable[[int, Experts, Weights], tuple[Experts, Weights]]


@dataclass(slots=True, eq=False)
class Measured:
    """Attributes:
    losses: ``[windows]``, mean nats per token of each.
    pairs, skipped: that gates chose, and that were left out of them.
    chosen, touched: distinct experts of a step and layer, summed over them: of the former, and without the latter.
    steps: and layers that these were counted in.
    """

    losses: NDArray[np.float64]
    pairs: int = 0
    skipped: int = 0
    chosen: int = 0
    touched: int = 0
    steps: int = 0


class WholeModel:
    """Raises whatever transformers does where the checkpoint does not fit into memory."""

    def __init__(self, checkpoint: Checkpoint, dtype: str, device: torch.device) -> None:
        logging: Any = transformers.logging  # untyped
        logging.disable_progress_bar()
        module: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            checkpoint.path, dtype=getattr(torch, dtype), local_files_only=True
        )
        self._module: Any = nn.Module.to(module, device)
        self._device = device
        name = checkpoint.config.family.experts_class
        self._experts = [part for part in module.modules() if type(part).__name__ == name]
        self._count = checkpoint.config.experts

    @property
    def layers(self) -> int:
        return len(self._experts)

    def choices(self, windows: Windows) -> tuple[list[Layer], NDArray[np.float64]]:
        """What gates choose in each layer, and the losses ``[windows]``, of the model as it is."""
        parts: list[list[NDArray[np.float64]]] = [[] for _ in self._experts]

        def note(layer: int, ids: Experts, weights: Weights) -> tuple[Experts, Weights]:
            parts[layer].append(left_out(weights))
            return ids, weights

        losses = self._losses(windows, note)
        return [Layer.of(np.concatenate(each)) for each in parts], losses

    def measure(self, windows: Windows, thresholds: Sequence[float]) -> Measured:
        """With what ``rule.thin`` leaves out by these thresholds, one for each layer."""
        found = Measured(np.empty(0))

        def skip(layer: int, ids: Experts, weights: Weights) -> tuple[Experts, Weights]:
            kept, scaled = thin(ids, weights, thresholds[layer])
            found.pairs += ids.size
            found.skipped += int(np.count_nonzero(kept == NO_EXPERT))
            if len(ids) == STEP_ROWS * windows.shape[1]:
                found.chosen += _distinct(ids, self._count)
                found.touched += _distinct(kept, self._count)
                found.steps += windows.shape[1]
            return kept, scaled

        found.losses = self._losses(windows, skip)
        return found

    def losses_by(self, windows: Windows, experts: ExpertsClient) -> NDArray[np.float64]:
        """``[windows]``, with all that experts compute computed by ``experts``."""
        own = [part.forward for part in self._experts]
        for layer, part in enumerate(self._experts):
            part.forward = partial(experts.forward, layer)
        try:
            return self._losses(windows, lambda _, ids, weights: (ids, weights))
        finally:
            for part, forward in zip(self._experts, own, strict=True):
                part.forward = forward

    @torch.inference_mode()
    def _losses(self, windows: Windows, hook: _Hook) -> NDArray[np.float64]:
        losses = []
        with self._hooked(hook):
            for begin in range(0, len(windows), STEP_ROWS):
                ids = torch.from_numpy(windows[begin : begin + STEP_ROWS]).to(self._device)
                hidden = self._module.base_model(input_ids=ids, use_cache=False).last_hidden_state
                # Window by window: the logits of a large vocabulary take more memory than all the rest.
                losses += [self._loss(rows, targets) for rows, targets in zip(hidden, ids, strict=True)]
        return np.array(losses)

    def _loss(self, hidden: Tensor, ids: Tensor) -> float:
        head = self._module.get_output_embeddings()
        return float(cross_entropy(head(hidden[:-1]).float(), ids[1:]))

    @contextmanager
    def _hooked(self, hook: _Hook) -> Iterator[None]:
        handles = [part.register_forward_pre_hook(_before(layer, hook)) for layer, part in enumerate(self._experts)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _before(layer: int, hook: _Hook) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    def change(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, ids, weights = arguments
        chosen = ids.cpu().numpy()
        kept, scaled = hook(layer, chosen, weights.to("cpu", torch.float32).numpy())
        if kept is chosen:
            return arguments
        # Experts that are not computed here are computed for nothing: the row's first, with weight 0.
        named = np.where(kept == NO_EXPERT, kept[:, :1], kept)
        return hidden, torch.from_numpy(named).to(ids), torch.from_numpy(scaled).to(weights)

    return change


def _distinct(ids: Experts, experts: int) -> int:
    """Of the rows of ``STEP_ROWS`` windows, one after the other, those at the same place are a step: different experts
    of each, summed."""
    tokens = len(ids) // STEP_ROWS
    marks = np.zeros((tokens, experts + 1), dtype=bool)
    marks[np.arange(tokens)[None, :, None], ids.reshape(STEP_ROWS, tokens, -1)] = True  # NO_EXPERT marks the last
    return int(np.count_nonzero(marks[:, :experts]))
