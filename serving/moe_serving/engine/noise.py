"""The noise of sampling: 32 bits for each (seed, position, token id), the same on every replica and every device.

Integer operations only, of which torch computes the same bits on a CPU and on CUDA. Part of what a client sees: another
replica, perhaps of the next release, continues an answer. Words are mixed by MurmurHash3's 32-bit finaliser (Appleby,
2011, public domain), in which every bit of the input turns half of the output's; the second word of a row's key enters
between its two halves. A word is an integer below 2^32 in 64 bits, and its factors are signed, so that no product
overflows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF
_FIRST, _SECOND = 0x85EBCA6B - 2**32, 0xC2B2AE35 - 2**32
"""MurmurHash3's factors, less 2^32: their products are the same modulo 2^32."""
_KEYS = (0x9E3779B9, 0x7F4A7C15)
"""Where the two chains of a row's key begin: halves of 2^64 divided by the golden ratio. Two, since among 32-bit keys
two positions of one long answer would meet."""

_LARGEST_BELOW = {torch.float64: 2.0**32 - 0.5, torch.float32: 2.0**32 - 2.0**8}
"""Below 2^32, as far as a float can tell: a word rounded up to 2^32 would be noise without end."""

W = TypeVar("W", int, Tensor)


def noise_bits(seeds: Sequence[int], positions: Sequence[int], tokens: Tensor) -> Tensor:
    """Random words below 2^32, int64 ``[rows, n]``, for token ids ``tokens``, int64 ``[rows, n]`` or ``[1, n]``.

    Args:
        seeds: of each row's request; their lowest 64 bits count.
        positions: of each row's token in its answer.
    """
    keys = [_row_key(seed, position) for seed, position in zip(seeds, positions, strict=True)]
    first, second = torch.tensor(keys, dtype=torch.int64, device=tokens.device).unbind(dim=1)
    return _mix(tokens ^ first[:, None], second[:, None])


def gumbel(bits: Tensor) -> Tensor:
    """Gumbel noise, float64, from ``noise_bits``; its bounds are −3.1 and 22.9."""
    return exponential(bits, torch.float64).log_().neg_()


def exponential(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """Exponential noise from ``noise_bits``: −log(1 − u) with u in (0, 1)."""
    return bits.to(dtype).add_(0.5).clamp_(max=_LARGEST_BELOW[dtype]).mul_(-(2.0**-32)).log1p_().neg_()


def _row_key(seed: int, position: int) -> tuple[int, int]:
    words = (seed & _WORD, (seed >> 32) & _WORD, position & _WORD)
    first, second = _KEYS
    for word in words:
        first, second = _mix(first ^ word), _mix(second ^ word)
    return first, second


def _mix(word: W, between: W | int = 0) -> W:
    """Overwrites ``word`` where that is a tensor."""
    word ^= word >> 16
    word *= _FIRST
    word &= _WORD
    word ^= word >> 13
    word ^= between
    word *= _SECOND
    word &= _WORD
    word ^= word >> 16
    return word
