"""transformers as most use it: ``generate`` on a static batch."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Any

import torch
from transformers.generation import BaseStreamer

from benchmarks.contest.runs import Run, Tokens
from benchmarks.contest.whole import Beside


class Generate(Beside):
    def run(self, prompts: Sequence[Tokens], tokens: int) -> Run:
        model = self._whole.steadied()
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
