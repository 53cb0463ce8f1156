"""Rotary frequencies of each sequence by itself, for rope types whose frequencies depend on its length.

transformers picks them by the largest position of all it is given (``dynamic_rope_update``): in a packed step that is
another sequence's, and in a chunk of a prompt less than the prompt's. Here each token gets the frequencies that it
would get where its sequence is computed alone: a prompt in one go, then token by token. They depend on nothing else, so
keys computed anew on another replica are the same. Called by the runner before each step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from moe_serving.checkpoint import ModelError
from moe_serving.checkpoint.rope import ROPE_TYPES

_UNCHANGED = "default"
"""As whose type a rotary module leaves its frequencies as they are."""


def seen_length(position: int, prompt: int) -> int:
    """Tokens that transformers has seen when it computes the one at ``position``, of a prompt of ``prompt`` tokens."""
    return max(prompt, position + 1)


class SequenceRope:
    """The rotary module of a model, told before each step which frequencies each token has."""

    def __init__(self, module: Any, limit: int, beyond: Callable[[Tensor], Tensor]) -> None:
        """
        Args:
            module: of transformers, as it was built.
            limit: sequences of up to so many tokens have the module's first frequencies.
            beyond: frequencies ``[head_dim / 2]`` of a longer one, from its length (a scalar tensor).
        """
        self._module = module
        self._limit = limit
        self._beyond = beyond
        self._within: Tensor = self._module.inv_freq
        self._module.rope_type = _UNCHANGED

    @classmethod
    def of(cls, model: PreTrainedModel) -> SequenceRope | None:
        """None where all lengths have the same frequencies.

        Raises:
            ModelError: UnsupportedArchitecture, a rotary module that would be computed wrong.
        """
        modules: list[Any] = [module for module in model.modules() if hasattr(module, "rope_type")]
        kinds = {module.rope_type if isinstance(module.rope_type, str) else "nested" for module in modules}
        if len(modules) != 1 or not kinds <= set(ROPE_TYPES):
            raise ModelError(
                "UnsupportedArchitecture",
                f"{type(model).__name__} has {len(modules)} rotary modules of types {sorted(kinds)}; supported is one "
                f"of {', '.join(ROPE_TYPES)}",
            )
        module, config = modules[0], model.config
        match kinds.pop():
            case "longrope":
                limit = config.rope_parameters["original_max_position_embeddings"]
                long = _frequencies(module, torch.tensor(limit + 1))
                return cls(module, limit, lambda _: long)
            case "dynamic":
                return cls(module, config.max_position_embeddings, lambda length: _frequencies(module, length))
        return None

    def begin_step(self, lengths: Sequence[int]) -> None:
        """Tell the length seen by each token of the coming step; see ``seen_length``."""
        longer = sorted({length for length in lengths if length > self._limit})
        if not longer:
            self._module.inv_freq = self._within
            return
        device = self._within.device
        table = torch.stack([self._within, *(self._beyond(torch.tensor(length, device=device)) for length in longer)])
        number = {length: place for place, length in enumerate(longer, start=1)}
        rows = torch.tensor([number.get(length, 0) for length in lengths], device=device)
        self._module.inv_freq = table[rows]


def _frequencies(module: Any, length: Tensor) -> Tensor:
    """By transformers' own function: bit for bit what its rotary module would compute at this length."""
    kind = module.config.rope_parameters["rope_type"]
    frequencies: Tensor = ROPE_INIT_FUNCTIONS[kind](module.config, module.inv_freq.device, seq_len=length)[0]
    return frequencies
