"""The repetition penalty (Keskar et al., 2019), as transformers computes it: tokens that were there are less likely."""

from __future__ import annotations

import weakref
from collections.abc import Sequence as Many

import torch
from torch import Tensor

from moe_serving.engine.sequence import Sequence


class RepetitionPenalty:
    """Remembers which tokens each sequence that asks for it has, so that a step looks at the newest ones only."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._device = device
        self._seen: weakref.WeakKeyDictionary[Sequence, _Seen] = weakref.WeakKeyDictionary()

    def apply(self, logits: Tensor, sequences: Many[Sequence]) -> Tensor:
        """Logits ``[rows, vocabulary]`` with the rows of penalised sequences changed, which are float32 then."""
        penalised = [row for row, s in enumerate(sequences) if s.request.sampling.repetition_penalty != 1]
        if not penalised:
            return logits
        logits = logits.to(torch.float32, copy=True)
        for row in penalised:
            scores, penalty = logits[row], sequences[row].request.sampling.repetition_penalty
            changed = torch.where(scores < 0, scores * penalty, scores / penalty)
            logits[row] = torch.where(self._tokens_of(sequences[row]), changed, scores)
        return logits

    def _tokens_of(self, sequence: Sequence) -> Tensor:
        """Bool ``[vocabulary]``: which tokens the prompt and the answer so far have."""
        seen = self._seen.get(sequence)
        if seen is None:
            seen = self._seen[sequence] = _Seen(torch.zeros(self._vocabulary, dtype=torch.bool, device=self._device))
        seen.update(sequence.token_ids)
        return seen.tokens


class _Seen:
    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens
        self._count = 0

    def update(self, token_ids: Many[int]) -> None:
        new = torch.tensor(token_ids[self._count :], dtype=torch.int64, device=self.tokens.device)
        self.tokens[new] = True
        self._count = len(token_ids)
