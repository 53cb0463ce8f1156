"""The choice of the next token, the same on any replica: its random number depends on seed and position only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from moe_serving.engine.request import Sampling

MIN_TEMPERATURE = 1e-5
"""Below it the most likely token is taken: nothing else could be drawn, and logits divided by less overflow."""


def choose_tokens(logits: Tensor, sampling: Sequence[Sampling], positions: Sequence[int]) -> list[int | None]:
    """One token per row; None where the logits are not finite, which is no answer.

    Args:
        logits: ``[rows, vocabulary]``.
        sampling: of each row's request.
        positions: of each row's token in its answer, from 0.
    """
    # NaN would make argmax pick it and inverse sampling run off the end: both would look like an answer.
    sound: list[bool] = torch.isfinite(logits.amax(dim=-1)).tolist()
    likeliest: list[int] = logits.argmax(dim=-1).tolist()
    tokens = [token if good else None for token, good in zip(likeliest, sound, strict=True)]
    drawn = [row for row, how in enumerate(sampling) if sound[row] and how.temperature >= MIN_TEMPERATURE]
    if drawn:
        hows = [sampling[row] for row in drawn]
        numbers = [uniform(how.seed, positions[row]) for how, row in zip(hows, drawn, strict=True)]
        for row, token in zip(drawn, _draw(logits[drawn], hows, numbers), strict=True):
            tokens[row] = token
    return tokens


def uniform(seed: int, position: int) -> float:
    """The random number in [0, 1) of a token: Philox 4x64 (Salmon et al., 2011) with the seed as key."""
    word = int(np.random.Philox(key=seed % 2**128, counter=position).random_raw())
    return (word >> 11) * 2.0**-53


def _draw(logits: Tensor, hows: Sequence[Sampling], numbers: Sequence[float]) -> list[int]:
    """Inverse sampling in vocabulary order: rounding may move the borders between tokens, but never swaps tokens."""
    temperature = torch.tensor([how.temperature for how in hows], dtype=torch.float64, device=logits.device)
    top_p = torch.tensor([how.top_p for how in hows], dtype=torch.float64, device=logits.device)
    probabilities = torch.softmax(logits.double() / temperature[:, None], dim=-1)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    beyond = ordered.cumsum(dim=-1) - ordered >= top_p[:, None]
    beyond[:, 0] = False
    probabilities = probabilities.masked_fill(torch.zeros_like(beyond).scatter(1, order, beyond), 0.0)
    cumulative = probabilities.cumsum(dim=-1)
    number = torch.tensor(numbers, dtype=torch.float64, device=logits.device)[:, None]
    drawn = torch.searchsorted(cumulative, number * cumulative[:, -1:], right=True)
    last_possible = (probabilities > 0).cumsum(dim=-1).argmax(dim=-1, keepdim=True)
    chosen: list[int] = torch.minimum(drawn, last_possible).squeeze(1).tolist()
    return chosen
