"""transformers as most use it: ``generate`` on a static batch."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from transformers.generation import BaseStreamer

from benchmarks.contest.runs import WARM_UP_TOKENS, Run, Tokens
from benchmarks.contest.whole import Whole


class Generate:
    def __init__(self, whole: Whole) -> None:
        self._whole = whole

    def warm_up(self, prompts: Sequence[Tokens]) -> str:
        self.run(prompts, WARM_UP_TOKENS)
        return self._whole.steady

    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        model = self._whole.model
        model.set_experts_implementation(self._whole.steady)
        ids, clock = torch.tensor(prompts), _Clock()
        begin = perf_counter()
        answered = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, streamer=clock)
        return Run.of(begin, [clock.times[1:]] * len(prompts), answered[:, ids.shape[1] :].tolist())


class _Clock(BaseStreamer):  # type: ignore[misc]  # untyped
    """When prompts and tokens were put."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(perf_counter())

    def end(self) -> None:
        pass
