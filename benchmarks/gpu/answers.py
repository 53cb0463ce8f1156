"""Our engine's steps, one after the other, for a batch of sequences of one length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_contract.applications import AttentionConfig
from moe_serving.engine.lean.step import Inputs, LeanStep
from moe_serving.engine.model import AttentionModel
from moe_serving.engine.packing import PackedTokens
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.runner import ModelRunner
from moe_serving.engine.scheduler import Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence as Answer

PREFILL_TOKENS = 2048
"""Of a step."""


def prompts(batch: int, length: int, vocabulary: int) -> Tensor:
    """int64 ``[batch, length]``, the same each time."""
    return torch.randint(3, vocabulary, (batch, length), generator=torch.Generator().manual_seed(7))


class Batch:
    """``asked`` ``[batch, length]`` is computed, and then decoded step by step, greedily.

    Args:
        tokens: most that are decoded.
    """

    def __init__(self, model: AttentionModel, asked: Tensor, tokens: int) -> None:
        batch, length = asked.shape
        limits = AttentionConfig(
            max_batch_tokens=max(PREFILL_TOKENS, batch), max_running=batch, kv_cache_tokens=batch * (length + tokens)
        )
        if model.lean is None:
            raise ValueError("the model has no lean step")
        self.lean: LeanStep = model.lean
        self._scheduler = Scheduler(limits)
        self.runner = ModelRunner(model, self._scheduler.blocks.end)
        sampling = Sampling(max_tokens=tokens, ignore_eos=True)
        self.answers = [
            Answer(GenerationRequest(str(number), tuple(prompt), sampling))
            for number, prompt in enumerate(asked.tolist())
        ]
        for answer in self.answers:
            self._scheduler.add(answer)

    def finish(self) -> list[list[int]]:
        """Tokens of all answers, once each has all of them."""
        while self._scheduler.busy:
            self.step()
        return [answer.token_ids[-answer.request.sampling.max_tokens :] for answer in self.answers]

    def step(self) -> None:
        chunks = self._scheduler.next_step()
        for done in take_tokens(chunks, self.runner.run(chunks))[0]:
            if done.finish_reason(frozenset()):
                self._scheduler.discard(done)

    def prefill(self) -> None:
        """Until all have their first token."""
        while not all(answer.answered for answer in self.answers):
            self.step()

    def inputs(self) -> Inputs:
        """Of the next step, in which all decode; it is not taken."""
        chunks: Sequence = self._scheduler.next_step()
        return self.lean.inputs(PackedTokens.of(chunks))
