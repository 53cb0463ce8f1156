"""What attention and shards say to each other, as messages of tensors.

``COMPUTE``: rows of one layer and, per row, the experts wanted of this shard with their gate weights (CSR). The reply
is ``PARTIAL_SUMS``: per row the weighted sum over its experts, and which pairs this shard does not hold; or, when the
request has flag ``PER_PAIR`` (verify mode), ``PAIR_OUTPUTS`` with every pair by itself. Experts are addressed, not
slots: a request made from a stale table is answered for what is still held.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import torch
from torch import Tensor

from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

PER_PAIR = 1
"""Flag of a request: compute row by row and answer each pair by itself."""

_LAYER = struct.Struct("<I")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class ComputeRequest:
    """Rows for one shard.

    Attributes:
        layer: number of the MoE layer.
        hidden: ``[n, H]`` in the model's dtype.
        offsets: int32 ``[n + 1]``; the pairs of row ``i`` are ``offsets[i] .. offsets[i + 1] - 1``.
        experts: int32 ``[P]``, the expert of each pair.
        weights: float32 ``[P]``, its gate weight.
        per_pair: verify mode.
    """

    layer: int
    hidden: Tensor
    offsets: Tensor
    experts: Tensor
    weights: Tensor
    per_pair: bool = False

    def to_message(self) -> Message:
        tensors = (self.hidden, self.offsets, self.experts, self.weights)
        return Message(ExpertKind.COMPUTE, _LAYER.pack(self.layer), tensors, PER_PAIR if self.per_pair else 0)

    @classmethod
    def from_message(cls, message: Message) -> ComputeRequest:
        """
        Raises:
            ProtocolError: not a request, or one whose sizes contradict each other.
        """
        if message.kind != ExpertKind.COMPUTE or len(message.tensors) != 4 or len(message.meta) != _LAYER.size:
            raise ProtocolError(f"expected a COMPUTE request, got kind {message.kind:#x}")
        if message.flags & ~PER_PAIR:
            raise ProtocolError(f"unknown flags {message.flags:#x} of a COMPUTE request")
        request = cls(_LAYER.unpack(message.meta)[0], *message.tensors, per_pair=bool(message.flags & PER_PAIR))
        request._check()
        return request

    def _check(self) -> None:
        hidden, offsets, experts, weights = self.hidden, self.offsets, self.experts, self.weights
        if hidden.dim() != 2 or hidden.dtype not in _FLOATS:
            raise ProtocolError(f"rows must be floats [n, H], got {hidden.dtype} {list(hidden.shape)}")
        if offsets.dtype != torch.int32 or experts.dtype != torch.int32 or weights.dtype != torch.float32:
            raise ProtocolError("offsets and experts must be int32, weights float32")
        if offsets.shape != (len(hidden) + 1,) or experts.dim() != 1 or weights.shape != experts.shape:
            raise ProtocolError(
                f"{len(hidden)} rows with offsets {list(offsets.shape)}, experts {list(experts.shape)} and weights "
                f"{list(weights.shape)}"
            )
        edges = offsets.numpy()
        if edges[0] != 0 or edges[-1] != len(experts) or (edges[1:] < edges[:-1]).any():
            raise ProtocolError(f"offsets do not run from 0 to the {len(experts)} pairs")


@dataclass(frozen=True, slots=True)
class ComputeReply:
    """The answer to a request.

    Attributes:
        values: float32; partial sums ``[n, H]``, or with ``per_pair`` the weighted output of each pair ``[P, H]``.
        missing: int32 ``[M]``, positions of the pairs whose expert this shard does not hold; they count as zeros.
    """

    values: Tensor
    missing: Tensor
    per_pair: bool = False

    def to_message(self) -> Message:
        kind = ExpertKind.PAIR_OUTPUTS if self.per_pair else ExpertKind.PARTIAL_SUMS
        return Message(kind, b"", (self.values, self.missing))

    @classmethod
    def from_message(cls, message: Message, request: ComputeRequest) -> ComputeReply:
        """
        Raises:
            ProtocolError: not an answer to ``request``.
        """
        kind = ExpertKind.PAIR_OUTPUTS if request.per_pair else ExpertKind.PARTIAL_SUMS
        if message.kind != kind or len(message.tensors) != 2:
            raise ProtocolError(f"expected {kind.name}, got kind {message.kind:#x}")
        values, missing = message.tensors
        rows = len(request.experts) if request.per_pair else len(request.hidden)
        if values.dtype != torch.float32 or values.shape != (rows, request.hidden.shape[1]):
            raise ProtocolError(f"asked for {rows} rows, got {values.dtype} {list(values.shape)}")
        if missing.dtype != torch.int32 or missing.dim() != 1:
            raise ProtocolError(f"missing pairs must be int32 [M], got {missing.dtype} {list(missing.shape)}")
        if not ((missing >= 0) & (missing < len(request.experts))).all():
            raise ProtocolError(f"missing pairs are not all among the {len(request.experts)} asked for")
        return cls(values, missing, request.per_pair)
