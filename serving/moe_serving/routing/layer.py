"""One MoE layer of one step, cut into a request per shard and put together again. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_placement.dispatch import NO_EXPERT
from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.fp8.rows import pack
from moe_serving.routing.cuts import Cut, cut

Pairs = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Positions of pairs in ``[T, K]``: token and place."""
NO_PAIRS: Pairs = (np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp))


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """What one shard is asked.

    Attributes:
        request: to be sent.
        rows: the tokens, ascending, that the rows of the request are.
        pairs: which pairs of the layer the pairs of the request are.
    """

    request: ComputeRequest
    rows: NDArray[np.intp]
    pairs: Pairs


def _distinct(experts: NDArray[np.int64]) -> int:
    """Different ones, ``NO_EXPERT`` not among them."""
    return int(np.count_nonzero(np.bincount(experts.ravel() - NO_EXPERT)[1:]))


class LayerWork:
    """The pairs of one layer and what is known of their outputs so far.

    Args:
        layer: number of the MoE layer.
        hidden: ``[T, H]``.
        expert_ids: int64 ``[T, K]``.
        weights: ``[T, K]``.
        per_pair: verify mode; every pair is answered by itself.
        packed: rows travel as FP8, each packed once however many shards it goes to.
    """

    def __init__(
        self,
        layer: int,
        hidden: Tensor,
        expert_ids: Tensor,
        weights: Tensor,
        per_pair: bool,
        packed: bool = False,
    ) -> None:
        self.layer = layer
        self.experts: NDArray[np.int64] = expert_ids.cpu().numpy()
        self.pending = np.ones(self.experts.shape, dtype=bool)
        """bool ``[T, K]``, the pairs that nobody has answered yet."""
        self._hidden = hidden.detach().cpu().contiguous()
        self.gates: NDArray[np.float32] = weights.detach().to("cpu", torch.float32).numpy()
        self._like = hidden
        self._per_pair = per_pair
        self._packed = pack(self._hidden) if packed else None
        self.distinct = (0, 0)
        """Distinct experts that the gate chose, and that are asked for, where pairs are left out."""
        self._answers: list[tuple[Part, Tensor]] = []

    def keep(self, experts: NDArray[np.int64], gates: NDArray[np.float32]) -> None:
        """Leave pairs out, before any are asked for: those of ``NO_EXPERT``; see ``adaptive.rule.thin``."""
        self.distinct = _distinct(self.experts), _distinct(experts)
        self.experts, self.gates = experts, gates
        self.pending = experts != NO_EXPERT

    def parts(self, choice: NDArray[np.int64]) -> list[tuple[int, Part]]:
        """The request to each shard of ``choice`` ``[T, K]``, by ascending position; none for pairs of ``NOBODY``."""
        return [(each.position, self._part(each)) for each in cut(choice, self.experts, self.gates)]

    def _part(self, own: Cut) -> Part:
        packed = self._packed
        if packed is not None and len(own.rows) < len(self._hidden):
            packed = packed.take(own.rows)
        request = ComputeRequest(
            layer=self.layer,
            hidden=self._rows(own.rows) if packed is None else packed.values,
            offsets=torch.from_numpy(own.offsets),
            experts=torch.from_numpy(own.experts),
            weights=torch.from_numpy(own.weights),
            per_pair=self._per_pair,
            scales=None if packed is None else packed.scales,
        )
        return Part(request, own.rows, (own.token, own.place))

    def plain(self, part: Part) -> Part:
        """The same for a shard that does not know packed rows."""
        return replace(part, request=replace(part.request, hidden=self._rows(part.rows), scales=None))

    def _rows(self, rows: NDArray[np.intp]) -> Tensor:
        return self._hidden if len(rows) == len(self._hidden) else self._hidden[torch.from_numpy(rows)]

    def accept(self, part: Part, reply: ComputeReply) -> Pairs:
        """Take a shard's answer; returns the pairs that it does not hold, which stay pending."""
        self._answers.append((part, reply.values))
        self.pending[part.pairs] = False
        if not len(reply.missing):
            return NO_PAIRS
        missing = reply.missing.numpy()
        lacking = part.pairs[0][missing], part.pairs[1][missing]
        self.pending[lacking] = True
        return lacking

    def result(self) -> Tensor:
        """The weighted sums ``[T, H]`` in the dtype and on the device of ``hidden``.

        Answers are added in the order in which they were accepted; with ``per_pair`` in the order of the top k.
        """
        sums = self._sum_pairs() if self._per_pair else self._sum_parts()
        return sums.to(self._like.device, self._like.dtype)

    def pair_outputs(self) -> Tensor:
        """With ``per_pair``: the weighted output of every pair, float32 ``[T, K, H]``."""
        outputs = torch.zeros(*self.experts.shape, self._hidden.shape[1])
        for part, values in self._answers:
            token, place = (torch.from_numpy(positions) for positions in part.pairs)
            # Pairs that this shard did not hold are zeros here; whoever answered them later adds to zero.
            outputs.index_put_((token, place), values, accumulate=True)
        return outputs

    def _sum_pairs(self) -> Tensor:
        outputs = self.pair_outputs()
        sums = outputs[:, 0].clone()
        for place in range(1, outputs.shape[1]):
            sums += outputs[:, place]
        return sums

    def _sum_parts(self) -> Tensor:
        first = self._answers[0] if self._answers else None
        if first is not None and len(first[0].rows) == len(self._hidden):
            sums, others = first[1].clone(), self._answers[1:]
        else:
            sums, others = torch.zeros(self._hidden.shape, dtype=torch.float32), self._answers
        for part, values in others:
            if len(part.rows) == len(sums):
                sums += values
            else:
                sums.index_add_(0, torch.from_numpy(part.rows), values)
        return sums
