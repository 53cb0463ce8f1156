"""The baseline: transformers' own modules in a bare loop, which is faster than ``generate`` around the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, grouped_mm_experts_forward

from benchmarks.contest.limit import StepBytes
from benchmarks.contest.runs import WARM_UP_TOKENS, Run, Tokens

EVERYWHERE = ("grouped_mm", "eager")
"""Experts functions of transformers that a CPU has, for any number of rows."""
GATHERING = "batched_mm"
"""Copies the weights of each pair of a row and an expert: for few of them."""
MOST_GATHERED = 1 << 30
"""Bytes that it may copy at once."""
TRIES = 2
PIECE = 8
"""Tokens of the prompts on which experts functions are tried for decoding: how long they are matters little there."""

_COUNTED = "counted"
_seen: list[int] = []


class Whole:
    """Attributes:
    model: of transformers.
    steady: the experts function that is fastest in decoding of those that can do the prefill as well.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.steady = EVERYWHERE[0]
        self._prefill = self._decode = self.steady
        self._experts = [part for part in model.modules() if "gate_up_proj" in part._parameters]

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        """Try all experts functions, for the prefill and for decoding."""
        pieces = [prompt[:PIECE] for prompt in prompts]
        self._run(prompts, WARM_UP_TOKENS, self.steady, self.steady)
        rows = sum(map(len, prompts))
        prefill = _tried(self._fit(rows), lambda name: self._run(prompts, 1, name, name).first_s)
        self._prefill = min(prefill, key=prefill.__getitem__)
        decode = _tried(
            self._fit(len(prompts)), lambda name: self._run(pieces, WARM_UP_TOKENS, self.steady, name).later_s
        )
        self._decode = min(decode, key=decode.__getitem__)
        self.steady = min(EVERYWHERE, key=decode.__getitem__)
        return f"{self._prefill} for prompts, {self._decode} for decoding"

    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        return self._run(prompts, tokens, self._prefill, self._decode)

    def step_bytes(self, prompts: Sequence[Tokens], tokens: int) -> StepBytes:
        """What a step of decoding reads; the experts that it reads are counted."""
        _seen.clear()
        self._run(prompts, tokens, self.steady, _COUNTED)
        head, embeddings = self.model.get_output_embeddings().weight, self.model.get_input_embeddings().weight
        all_bytes = sum(parameter.nbytes for parameter in self.model.parameters())
        unread = 0 if head is embeddings else embeddings.nbytes  # a row for each token, which is next to nothing
        config = self.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cached = 2 * config.num_hidden_layers * config.num_key_value_heads * width * head.itemsize
        context = len(prompts[0]) + tokens / 2
        return StepBytes(
            others=all_bytes - unread - sum(self._expert_bytes * part.num_experts for part in self._experts),
            experts=self._expert_bytes * sum(_seen) / (tokens - 1),
            cache=len(prompts) * context * cached,
        )

    def steadied(self) -> Any:
        """The model with that experts function."""
        self.model.set_experts_implementation(self.steady)
        return self.model

    @property
    def _expert_bytes(self) -> int:
        one = self._experts[0]
        return int(one.gate_up_proj.nbytes + one.down_proj.nbytes) // int(one.num_experts)

    def _fit(self, rows: int) -> Iterable[str]:
        gathered = rows * self.model.config.num_experts_per_tok * self._expert_bytes
        return (*EVERYWHERE, GATHERING) if gathered <= MOST_GATHERED else EVERYWHERE

    @torch.inference_mode()
    def _run(self, prompts: Sequence[Tokens], tokens: int, prefill: str, decode: str) -> Run:
        self.model.set_experts_implementation(prefill)
        cache = DynamicCache(config=self.model.config)
        begin = perf_counter()
        chosen, times = [self._step(torch.tensor(prompts), cache)], [perf_counter()]
        self.model.set_experts_implementation(decode)
        for _ in range(tokens - 1):
            chosen.append(self._step(chosen[-1], cache))
            times.append(perf_counter())
        return Run.of(begin, [times] * len(prompts), torch.cat(chosen, dim=1).tolist())

    def _step(self, ids: Tensor, cache: DynamicCache) -> Tensor:
        """The next token of each row ``[B, T]`` → ``[B, 1]``."""
        logits: Tensor = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1:].argmax(dim=-1)


class Beside(ABC):
    """Another contestant that runs the baseline's model, with the experts function that was found to be fastest."""

    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        self.run(prompts, WARM_UP_TOKENS)
        return self._whole.steady

    @abstractmethod
    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run: ...


def _tried(names: Iterable[str], seconds: Callable[[str], float]) -> dict[str, float]:
    return {name: min(seconds(name) for _ in range(TRIES)) for name in names}


def _count(module: Any, hidden: Tensor, expert_ids: Tensor, weights: Tensor) -> Tensor:
    _seen.append(len(expert_ids.unique()))
    counted: Tensor = grouped_mm_experts_forward(module, hidden, expert_ids, weights)
    return counted


ALL_EXPERTS_FUNCTIONS.register(_COUNTED, _count)
