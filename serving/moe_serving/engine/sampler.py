"""The choice of the next token, the same on any replica: its noise depends on seed, position and token only.

Gumbel-max (Gumbel, 1954): the token whose logit plus noise is largest is a draw from their softmax. A logit that is
rounded otherwise, in a batch of another size, matters only where the two best sums are as close as that.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moe_serving.engine.noise import exponential, gumbel, noise_bits
from moe_serving.engine.nucleus import Candidates, Cuts, largest, nucleus, relative_probabilities
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
    # NaN would be taken for the largest value, and look like an answer.
    sound: list[bool] = torch.isfinite(logits.amax(dim=-1)).tolist()
    tokens: list[int | None] = [None] * len(sampling)
    likeliest = [row for row, how in enumerate(sampling) if sound[row] and how.temperature < MIN_TEMPERATURE]
    if likeliest:
        for row, token in zip(likeliest, _rows(logits, likeliest).argmax(dim=-1).tolist(), strict=True):
            tokens[row] = token
    drawn = [row for row, how in enumerate(sampling) if sound[row] and how.temperature >= MIN_TEMPERATURE]
    # A kernel takes many rows at once; a CPU takes one after the other, whose numbers then stay in its cache.
    for rows in _alike(drawn, sampling) if logits.is_cuda else [[row] for row in drawn]:
        choice = _draw(_rows(logits, rows).float(), [sampling[row] for row in rows], [positions[row] for row in rows])
        for row, token in zip(rows, choice.tolist(), strict=True):
            tokens[row] = token
    return tokens


def _draw(logits: Tensor, hows: Sequence[Sampling], positions: Sequence[int]) -> Tensor:
    """A token id for each row, int64 ``[rows]``; either all of ``hows`` cut something off or none does."""
    seeds = [how.seed for how in hows]
    temperature = torch.tensor([how.temperature for how in hows], dtype=torch.float64, device=logits.device)
    if _cuts(hows[0]):
        candidates = nucleus(logits, temperature, _cuts_of(hows, logits))
    else:
        candidates = _likely_winners(logits, temperature, seeds, positions)
    noise = gumbel(noise_bits(seeds, positions, candidates.tokens))
    best = (candidates.scores + noise).argmax(dim=-1, keepdim=True)
    return candidates.tokens.gather(1, best).squeeze(1)


def _likely_winners(logits: Tensor, temperature: Tensor, seeds: Sequence[int], positions: Sequence[int]) -> Candidates:
    """A few tokens of the whole vocabulary, among them the one with the largest sum: found in float32, which is fast,
    and in which only sums next to each other can change places.
    """
    likeliest = logits.amax(dim=-1, keepdim=True)
    every = torch.arange(logits.shape[1], device=logits.device)[None]
    waiting = exponential(noise_bits(seeds, positions, every), torch.float32)
    rates = relative_probabilities(logits - likeliest, temperature)
    _, tokens = largest(rates.div_(waiting), min(_FINALISTS, logits.shape[1]))
    scores = (logits.gather(1, tokens) - likeliest).double().div_(temperature[:, None])
    return Candidates(tokens, scores)


def _cuts(how: Sampling) -> bool:
    """Whether some tokens may not be drawn."""
    return how.top_p < 1 or how.top_k > 0 or how.min_p > 0


def _cuts_of(hows: Sequence[Sampling], logits: Tensor) -> Cuts:
    device, vocabulary = logits.device, logits.shape[1]
    return Cuts(
        top_k=torch.tensor([min(how.top_k or vocabulary, vocabulary) for how in hows], device=device),
        top_p=torch.tensor([how.top_p for how in hows], dtype=torch.float64, device=device),
        min_p=torch.tensor([how.min_p for how in hows], dtype=torch.float64, device=device),
    )


def _alike(rows: Sequence[int], sampling: Sequence[Sampling]) -> list[list[int]]:
    """``rows`` that cut something off, and those that do not; none of them empty."""
    parts = [[row for row in rows if _cuts(sampling[row]) == cuts] for cuts in (True, False)]
    return [part for part in parts if part]


def _rows(logits: Tensor, rows: Sequence[int]) -> Tensor:
    """The rows ``rows``, ascending; those that lie side by side are not copied."""
    if rows[-1] - rows[0] == len(rows) - 1:
        return logits[rows[0] : rows[-1] + 1]
    return logits[torch.tensor(rows, device=logits.device)]
