"""One step of the model: chunks of sequences in, the next token of each complete one out."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch

from moe_serving.engine.attention import PackedStep
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.model import AttentionModel
from moe_serving.engine.packing import PackedTokens
from moe_serving.engine.penalty import RepetitionPenalty
from moe_serving.engine.sampler import choose_tokens
from moe_serving.engine.scheduler import Chunk


class ModelRunner:
    """Owns the model and its cache. Used by the engine thread only."""

    def __init__(self, model: AttentionModel, rows: int) -> None:
        self._model = model
        self._penalty = RepetitionPenalty(model.vocabulary, model.device)
        self.cache = KeyValueCache(model.cache_shape, rows, model.dtype, model.device)

    @torch.inference_mode()
    def run(self, chunks: Many[Chunk]) -> list[int | None]:
        """Compute the chunks in one forward pass; one token for each chunk that ``samples``, in their order, or None
        where the model computed no finite logits.

        Raises:
            ExpertsUnavailableError: from the experts client. The sequences of the chunks cannot go on then.
        """
        sampled = [chunk.sequence for chunk in chunks if chunk.samples]
        logits = self.logits(chunks)
        if not sampled:
            return []
        logits = self._penalty.apply(logits, sampled)
        return choose_tokens(logits, [s.request.sampling for s in sampled], [s.answered for s in sampled])

    def logits(self, chunks: Many[Chunk]) -> torch.Tensor:
        """The forward pass of ``run``: logits ``[sampled, vocabulary]`` of the last token of chunks that sample."""
        packed = PackedTokens.of(chunks)
        if self._model.rope is not None:
            self._model.rope.begin_step(packed.seen)
        if self._model.lean is not None:
            return self._model.lean.logits(packed, self.cache)
        self.cache.begin_step(self._tensor(packed.rows))
        output = self._model.module(
            input_ids=self._tensor(packed.ids).unsqueeze(0),
            position_ids=self._tensor(packed.positions).unsqueeze(0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=self._tensor(packed.last),
            packed=PackedStep(self.cache, packed.spans),
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._model.device)
