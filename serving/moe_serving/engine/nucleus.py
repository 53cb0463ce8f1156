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

_SHIFT = 7
BLOCK = 1 << _SHIFT
"""Values per block: about as many as there are blocks of large vocabularies, so that neither search is long."""
FIRST_LOOK = 64
"""Tokens looked at first; a set that is larger is looked for among ``WIDER`` times as many."""
WIDER = 16
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
    """What may be drawn, per row; at least one token always may. None where no row has such a bound.

    Attributes:
        top_k: the likeliest tokens, and those as likely as the last of them; int64 ``[rows]``, 1 .. vocabulary.
        top_p: the smallest set of tokens whose probabilities reach it, of equally likely ones those of lower id;
            float64 ``[rows]``, 1 for all tokens.
        min_p: tokens at least this times as likely as the likeliest; float64 ``[rows]``, 0 for all.
    """

    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None


def nucleus(
    logits: Tensor, temperature: Tensor, cuts: Cuts, maxima: Tensor | None = None, count: int = FIRST_LOOK
) -> Candidates:
    """The tokens that ``cuts`` leaves.

    Args:
        logits: ``[rows, vocabulary]``, finite or −inf.
        temperature: float64 ``[rows]``.
        maxima: of ``block_maxima``, where they are known.
        count: tokens that are looked at first.
    """
    maxima = block_maxima(logits) if maxima is None else maxima
    while True:
        candidates, complete = look(logits, maxima, temperature, cuts, count)
        if bool(complete.all()):
            return candidates
        count *= WIDER


def look(
    logits: Tensor, maxima: Tensor, temperature: Tensor, cuts: Cuts, count: int = FIRST_LOOK
) -> tuple[Candidates, Tensor]:
    """What ``cuts`` leaves of the ``count`` likeliest tokens of each row, and whether it leaves no other.

    Args:
        logits, temperature: see ``nucleus``.
        maxima: of ``block_maxima``.

    Returns:
        The candidates, and bool ``[rows]``.
    """
    vocabulary = logits.shape[1]
    count = min(count, vocabulary)
    values, tokens = largest(logits, count, maxima)
    scores = (values - values[:, :1]).double().div_(temperature[:, None])
    beyond = torch.zeros_like(values, dtype=torch.bool)
    complete = torch.full_like(temperature, count == vocabulary, dtype=torch.bool)
    few = torch.zeros_like(complete)
    if cuts.top_k is not None:
        few = cuts.top_k < vocabulary
        beyond |= values < values.gather(1, cuts.top_k.clamp(max=count)[:, None] - 1)
        complete |= few & (cuts.top_k <= count) & beyond[:, -1]
    if cuts.top_p is not None:
        top_p = torch.where(cuts.top_p < 1, cuts.top_p, torch.inf)
        likely = scores.exp().masked_fill_(beyond, 0.0)
        mass = likely / torch.where(few, likely.sum(dim=-1), _totals(logits, values, temperature, few))[:, None]
        before = mass.cumsum(dim=-1) - mass
        beyond |= before >= (top_p * (1 - _ROUNDING))[:, None]
        # Others may be as likely as the last one found, so what lies before the likes of it must suffice.
        complete |= ~few & (mass.masked_fill_(values == values[:, -1:], 0.0).sum(dim=-1) >= top_p)
    if cuts.min_p is not None:
        unlikely = scores < cuts.min_p.log()[:, None]
        beyond |= unlikely
        complete |= ~few & unlikely[:, -1]
    beyond[:, 0] = False
    return Candidates(tokens, scores.masked_fill_(beyond, -torch.inf)), complete


def _totals(logits: Tensor, values: Tensor, temperature: Tensor, few: Tensor) -> Tensor:
    """The sum of ``relative_probabilities`` of rows that are not ``few``, float64 ``[rows]``; 1 for the others.

    A kernel takes many rows at once; a CPU takes one after the other, whose numbers then stay in its cache.
    """
    if logits.is_cuda:
        return relative_probabilities(logits - values[:, :1], temperature).sum(dim=-1).double()
    totals = torch.ones_like(temperature)
    for row, known in enumerate(few.tolist()):
        if not known:
            totals[row] = relative_probabilities(logits[row] - values[row, 0], temperature[row]).sum()
    return totals


def relative_probabilities(distances: Tensor, temperature: Tensor) -> Tensor:
    """Probabilities divided by the largest one, float32 ``[…, vocabulary]``; ``distances``, logits less the largest
    one, are overwritten.
    """
    return distances.mul_((_LOG2_E / temperature).float()[..., None]).exp2_()


def block_maxima(logits: Tensor) -> Tensor:
    """The largest value of each block of ``BLOCK``, ``[rows, blocks]``; the last block may be shorter.

    Takes one pass over the logits, after which what is large is found by looking at few of them.
    """
    whole = _whole_blocks(logits)
    maxima = whole.amax(dim=-1)
    rest = logits[:, whole.shape[1] * BLOCK :]
    return torch.cat([maxima, rest.amax(dim=-1, keepdim=True)], dim=1) if rest.shape[1] else maxima


def likeliest(logits: Tensor, maxima: Tensor) -> Tensor:
    """The first of the largest values of each row, as ``argmax`` finds it: its place, int64 ``[rows]``."""
    places = maxima.argmax(dim=-1, keepdim=True) * BLOCK + torch.arange(BLOCK, device=logits.device)
    values = logits.gather(1, places.clamp_(max=logits.shape[1] - 1))
    return places.gather(1, values.argmax(dim=-1, keepdim=True)).squeeze(1)


def largest(logits: Tensor, count: int, maxima: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``count`` largest values of each row and their places, in descending order, of equals the first one first.

    Args:
        maxima: of ``block_maxima``, where they are known.
    """
    if count * BLOCK < logits.shape[1]:
        values, places = _largest_of_blocks(logits, count, block_maxima(logits) if maxima is None else maxima)
    else:
        values, places = logits.topk(count, dim=-1)
    # Looking for equals here is faster than sorting for nothing, but a GPU would have to be waited for.
    if not logits.is_cuda and not bool((values[:, 1:] == values[:, :-1]).any()):
        return values, places
    places, order = places.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return values, places.gather(1, order)


def _largest_of_blocks(logits: Tensor, count: int, maxima: Tensor) -> tuple[Tensor, Tensor]:
    """``largest`` without an order of equals: looks at the ``count`` blocks with the largest maxima, and at a shorter
    one.
    """
    whole = _whole_blocks(logits)
    blocks = whole.shape[1]
    chosen = maxima[:, :blocks].topk(count, dim=-1, sorted=False).indices
    found = whole[torch.arange(len(logits), device=logits.device)[:, None], chosen].flatten(1)
    if blocks < maxima.shape[1]:
        found = torch.cat([found, logits[:, blocks * BLOCK :]], dim=1)
        chosen = pad(chosen, (0, 1), value=blocks)
    values, order = found.topk(count, dim=-1)
    return values, chosen.gather(1, order >> _SHIFT).mul_(BLOCK).add_(order & (BLOCK - 1))


def _whole_blocks(logits: Tensor) -> Tensor:
    """``[rows, blocks, BLOCK]``, without what is left over at the end."""
    blocks = logits.shape[1] // BLOCK
    return logits[:, : blocks * BLOCK].view(len(logits), blocks, BLOCK)
