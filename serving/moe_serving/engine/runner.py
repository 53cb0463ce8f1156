"""One step of the model: chunks of sequences in, the next token of each complete one out."""

from __future__ import annotations

from collections.abc import Sequence as Many

import torch

from moe_serving.engine.attention import PackedStep, Span
from moe_serving.engine.cache import KeyValueCache
from moe_serving.engine.model import AttentionModel
from moe_serving.engine.penalty import RepetitionPenalty
from moe_serving.engine.rope import seen_length
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
        ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        spans: list[Span] = []
        seen: list[int] = []
        last: list[int] = []
        for chunk in chunks:
            sequence = chunk.sequence
            begin, end = sequence.computed, sequence.computed + chunk.count
            spans.append(Span(begin=len(ids), count=chunk.count, row=sequence.rows.start, length=end))
            ids += sequence.token_ids[begin:end]
            positions += range(begin, end)
            rows += sequence.rows[begin:end]
            seen += (seen_length(position, len(sequence.request.prompt_ids)) for position in range(begin, end))
            if chunk.samples:
                last.append(len(ids) - 1)
        if self._model.rope is not None:
            self._model.rope.begin_step(seen)
        self.cache.begin_step(self._tensor(rows))
        output = self._model.module(
            input_ids=self._tensor(ids).unsqueeze(0),
            position_ids=self._tensor(positions).unsqueeze(0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=self._tensor(last),
            packed=PackedStep(self.cache, spans),
        )
        logits: torch.Tensor = output.logits[0]
        return logits

    def _tensor(self, numbers: list[int]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self._model.device)
