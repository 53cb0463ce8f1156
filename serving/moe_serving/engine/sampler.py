"""The choice of the next token, the same on any replica: its noise depends on seed, position and token only.

Gumbel-max (Gumbel, 1954): the token whose logit plus noise is largest is a draw from their softmax. A logit that is
rounded otherwise, in a batch of another size, matters only where the two best sums are as close as that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from moe_serving.engine.noise import exponential, gumbel, noise_bits
from moe_serving.engine.nucleus import (
    FIRST_LOOK,
    WIDER,
    Candidates,
    Cuts,
    block_maxima,
    largest,
    likeliest,
    look,
    nucleus,
    relative_probabilities,
)
from moe_serving.engine.request import Sampling

MIN_TEMPERATURE = 1e-5
"""Below it the most likely token is taken: nothing else could be drawn, and logits divided by less overflow."""

_FINALISTS = 8
"""Tokens of a whole vocabulary whose sums are compared in float64."""


def choose_tokens(logits: Tensor, sampling: Sequence[Sampling], positions: Sequence[int]) -> list[int | None]:
    """One token per row; None where the logits are not finite, which is no answer.

    Args:
        logits: ``[rows, vocabulary]``.
        sampling: of each row's request.
        positions: of each row's token in its answer, from 0.
    """
    rows = _Rows(logits, block_maxima(logits), sampling, positions)
    tokens: list[int | None] = [None] * len(sampling)
    for way, places in _by_way(rows).items():
        for place, token in zip(places, way(rows.take(places)), strict=True):
            tokens[place] = token
    return tokens


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """The arguments of ``choose_tokens``, and the ``block_maxima`` of the logits."""

    logits: Tensor
    maxima: Tensor
    sampling: Sequence[Sampling]
    positions: Sequence[int]

    def take(self, places: Sequence[int]) -> _Rows:
        """Some of them, ascending; those that lie side by side are not copied."""
        beside = places[-1] - places[0] == len(places) - 1
        own: slice | Tensor = slice(places[0], places[-1] + 1) if beside else self._tensor(places, torch.int64)
        sampling, positions = [self.sampling[place] for place in places], [self.positions[place] for place in places]
        return _Rows(self.logits[own], self.maxima[own], sampling, positions)

    def parts(self, places: Sequence[int]) -> list[_Rows]:
        """Some of them as they are best taken: by a kernel many at once, by a CPU one after the other, whose numbers
        then stay in its cache.
        """
        if self.logits.is_cuda:
            return [self.take(places)] if places else []
        return [self.take([place]) for place in places]

    def floats(self) -> _Rows:
        """The same in float32."""
        return _Rows(self.logits.float(), self.maxima.float(), self.sampling, self.positions)

    @property
    def temperature(self) -> Tensor:
        """float64 ``[rows]``."""
        return self._tensor([how.temperature for how in self.sampling], torch.float64)

    @property
    def cuts(self) -> Cuts:
        vocabulary, hows = self.logits.shape[1], self.sampling
        top_k = [min(how.top_k or vocabulary, vocabulary) for how in hows]
        return Cuts(
            self._tensor(top_k, torch.int64) if any(how.top_k for how in hows) else None,
            self._tensor([how.top_p for how in hows], torch.float64) if any(how.top_p < 1 for how in hows) else None,
            self._tensor([how.min_p for how in hows], torch.float64) if any(how.min_p for how in hows) else None,
        )

    def noise_bits(self, tokens: Tensor) -> Tensor:
        return noise_bits([how.seed for how in self.sampling], self.positions, tokens)

    def _tensor(self, values: Sequence[float], dtype: torch.dtype) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=self.logits.device)


def _by_way(rows: _Rows) -> dict[Callable[[_Rows], list[int]], list[int]]:
    """Which rows have their tokens chosen how; those without a token are left out."""
    ways: dict[Callable[[_Rows], list[int]], list[int]] = {}
    for place, (most, how) in enumerate(zip(rows.maxima.amax(dim=-1).tolist(), rows.sampling, strict=True)):
        # NaN would be taken for the largest value, and look like an answer.
        if not math.isfinite(most):
            continue
        cuts = how.top_p < 1 or how.top_k > 0 or how.min_p > 0
        way = _take_likeliest if how.temperature < MIN_TEMPERATURE else _draw_of_few if cuts else _draw_of_all
        ways.setdefault(way, []).append(place)
    return ways


def _take_likeliest(rows: _Rows) -> list[int]:
    tokens: list[int] = likeliest(rows.logits, rows.maxima).tolist()
    return tokens


def _draw_of_few(rows: _Rows) -> list[int]:
    """For rows that all cut something off. Most leave but few tokens, which are found for many rows at once."""
    rows = rows.floats()
    candidates, complete = look(rows.logits, rows.maxima, rows.temperature, rows.cuts)
    tokens = _draw(rows, candidates)
    left = [place for place, known in enumerate(complete.tolist()) if not known]
    wider = FIRST_LOOK * WIDER
    drawn = (
        _draw(part, nucleus(part.logits, part.temperature, part.cuts, part.maxima, wider)) for part in rows.parts(left)
    )
    for place, token in zip(left, chain.from_iterable(drawn), strict=True):
        tokens[place] = token
    return tokens


def _draw_of_all(rows: _Rows) -> list[int]:
    """For rows that may be any token."""
    parts = [part.floats() for part in rows.parts(range(len(rows.sampling)))]
    return [token for part in parts for token in _draw(part, _likely_winners(part))]


def _draw(rows: _Rows, candidates: Candidates) -> list[int]:
    best = (candidates.scores + gumbel(rows.noise_bits(candidates.tokens))).argmax(dim=-1, keepdim=True)
    tokens: list[int] = candidates.tokens.gather(1, best).squeeze(1).tolist()
    return tokens


def _likely_winners(rows: _Rows) -> Candidates:
    """A few tokens of the whole vocabulary, among them the one with the largest sum: found in float32, which is fast,
    and in which only sums next to each other can change places.
    """
    logits, temperature, most = rows.logits, rows.temperature, rows.maxima.amax(dim=-1, keepdim=True)
    every = torch.arange(logits.shape[1], device=logits.device)[None]
    waiting = exponential(rows.noise_bits(every), torch.float32)
    rates = relative_probabilities(logits - most, temperature)
    _, tokens = largest(rates.div_(waiting), min(_FINALISTS, logits.shape[1]))
    scores = (logits.gather(1, tokens) - most).double().div_(temperature[:, None])
    return Candidates(tokens, scores)
