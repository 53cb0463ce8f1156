"""Which tokens a draw may take, without sorting a vocabulary of 150,000 for each.

The likely tokens of a row are few, and found by the maxima of blocks of it: the n largest values lie in the n blocks
with the largest maxima. More are looked at only where those do not reach ``top_p``, or hold all of ``top_k`` or
``min_p``. In the order of transformers' processors: ``top_k``, ``top_p`` of the probabilities of what that leaves,
``min_p``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

_BLOCK = 128
"""Values per block: about as many as there are blocks of large vocabularies, so that neither search is long."""
_FIRST_LOOK = 64
"""Tokens looked at first; a set that is larger is looked for among ``_WIDER`` times as many."""
_WIDER = 16
_ROUNDING = 1e-6
"""Probabilities that lack as little of ``top_p`` have reached it: they are sums in float32."""
_LOG2_E = 1.4426950408889634
"""2^x takes a third of the time of e^x here."""


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Tokens that may be drawn, per row.

    Attributes:
        tokens: ids, int64 ``[rows, n]``.
        scores: logits divided by temperature, less those of the likeliest token, float64 ``[rows, n]``; −inf where the
            token may not be drawn.
    """

    tokens: Tensor
    scores: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Cuts:
    """What may be drawn, per row; at least one token always may.

    Attributes:
        top_k: the likeliest tokens, and those as likely as the last of them; int64 ``[rows]``, 1 .. vocabulary.
        top_p: the smallest set of tokens whose probabilities reach it, of equally likely ones those of lower id;
            float64 ``[rows]``, 1 for all tokens.
        min_p: tokens at least this times as likely as the likeliest; float64 ``[rows]``, 0 for all.
    """

    top_k: Tensor
    top_p: Tensor
    min_p: Tensor


def nucleus(logits: Tensor, temperature: Tensor, cuts: Cuts) -> Candidates:
    """The tokens that ``cuts`` leaves.

    Args:
        logits: ``[rows, vocabulary]``, finite or −inf.
        temperature: float64 ``[rows]``.
    """
    vocabulary = logits.shape[1]
    likeliest = logits.amax(dim=-1, keepdim=True)
    total = relative_probabilities(logits - likeliest, temperature).sum(dim=-1).double()
    few = cuts.top_k < vocabulary
    top_p = torch.where(cuts.top_p < 1, cuts.top_p, torch.inf)
    least_score = cuts.min_p.log()
    count = _FIRST_LOOK
    while True:
        count = min(count, vocabulary)
        values, tokens = largest(logits, count)
        scores = (values - likeliest).double().div_(temperature[:, None])
        last = values[:, -1:]
        among = values >= values.gather(1, cuts.top_k.clamp(max=count)[:, None] - 1)
        likely = torch.where(among, scores.exp(), 0.0)
        mass = likely / torch.where(few, likely.sum(dim=-1), total)[:, None]
        before = mass.cumsum(dim=-1) - mass
        # Others may be as likely as the last one found, so what lies before the likes of it must suffice.
        reached = torch.where(values > last, mass, 0.0).sum(dim=-1) >= top_p
        below = scores[:, -1] < least_score
        complete = torch.where(few, (cuts.top_k <= count) & ~among[:, -1], reached | below)
        if count == vocabulary or bool(complete.all()):
            break
        count *= _WIDER
    beyond = (before >= (top_p * (1 - _ROUNDING))[:, None]) | ~among | (scores < least_score[:, None])
    beyond[:, 0] = False
    return Candidates(tokens, scores.masked_fill_(beyond, -torch.inf))


def relative_probabilities(distances: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities divided by the largest one, float32 ``[rows, vocabulary]``; ``distances``, logits less the largest
    one, are overwritten.
    """
    return distances.mul_((_LOG2_E / temperature).float()[:, None]).exp2_()


def largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest values of each row and their places, in descending order, of equals the first one first."""
    rows, width = logits.shape
    if count * _BLOCK < width:
        whole = pad(logits, (0, -width % _BLOCK), value=-torch.inf) if width % _BLOCK else logits
        blocks = whole.view(rows, -1, _BLOCK)
        chosen = blocks.amax(dim=-1).topk(count, dim=-1).indices
        found = blocks[torch.arange(rows, device=logits.device)[:, None], chosen].flatten(1)
        places = (chosen[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
        values, order = found.topk(count, dim=-1)
        places = places.gather(1, order)
    else:
        values, places = logits.topk(count, dim=-1)
    places, order = places.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(1, order)
