"""What attention and shards say to each other, as messages of tensors.

``COMPUTE``: rows of one layer and, per row, the experts wanted of this shard with their gate weights (CSR). The reply
is ``PARTIAL_SUMS``: per row the weighted sum over its experts, and which pairs this shard does not hold; or, when the
request has flag ``PER_PAIR`` (verify mode), ``PAIR_OUTPUTS`` with every pair by itself. Experts are addressed, not
slots: a request made from a stale table is answered for what is still held.

A request with flag ``FP8`` has rows of eight bits (``fp8.rows``), and so has its answer: only a peer that has told
feature ``FP8_ROWS`` in its handshake is sent one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from moe_serving.fp8.rows import E4M3, PackedRows, pack
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

PER_PAIR = 1
"""Flag of a request: compute row by row and answer each pair by itself."""
FP8 = 2
"""Flag of a request without ``PER_PAIR``, and of its answer: rows are packed, and their scales are the last tensor."""
FP8_ROWS = "fp8-rows"
"""Feature of a shard that answers such requests."""

MOST_VALUES = 1 << 26
"""Of rows of one layer for one shard: 8192 tokens of 8192. Larger batches are a mistake, not a load."""

_LAYER = struct.Struct("<I")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True)
class ComputeRequest:
    """Rows for one shard.

    Attributes:
        layer: number of the MoE layer.
        hidden: ``[n, H]`` in the model's dtype, or packed.
        offsets: int32 ``[n + 1]``; the pairs of row ``i`` are ``offsets[i] .. offsets[i + 1] - 1``.
        experts: int32 ``[P]``, the expert of each pair.
        weights: float32 ``[P]``, its gate weight.
        per_pair: verify mode.
        scales: float32 ``[n]``, of rows that are packed; None where they are not.
    """

    layer: int
    hidden: Tensor
    offsets: Tensor
    experts: Tensor
    weights: Tensor
    per_pair: bool = False
    scales: Tensor | None = None

    def to_message(self) -> Message:
        tensors: tuple[Tensor, ...] = (self.hidden, self.offsets, self.experts, self.weights)
        flags = PER_PAIR if self.per_pair else 0
        if self.scales is not None:
            tensors, flags = (*tensors, self.scales), flags | FP8
        return Message(ExpertKind.COMPUTE, _LAYER.pack(self.layer), tensors, flags)

    def unpacked(self, dtype: torch.dtype) -> ComputeRequest:
        """The same with rows to compute with: packed ones in ``dtype``, others as they are."""
        if self.scales is None:
            return self
        return replace(self, hidden=PackedRows(self.hidden, self.scales).unpacked(dtype), scales=None)

    @classmethod
    def from_message(cls, message: Message) -> ComputeRequest:
        """
        Raises:
            ProtocolError: not a request, or one whose sizes contradict each other.
        """
        if message.flags not in (0, PER_PAIR, FP8):
            raise ProtocolError(f"unknown flags {message.flags:#x} of a COMPUTE request")
        tensors = 5 if message.flags == FP8 else 4
        if message.kind != ExpertKind.COMPUTE or len(message.tensors) != tensors or len(message.meta) != _LAYER.size:
            raise ProtocolError(f"expected a COMPUTE request, got kind {message.kind:#x}")
        hidden, offsets, experts, weights = message.tensors[:4]
        request = cls(
            layer=_LAYER.unpack(message.meta)[0],
            hidden=hidden,
            offsets=offsets,
            experts=experts,
            weights=weights,
            per_pair=message.flags == PER_PAIR,
            scales=message.tensors[4] if message.flags == FP8 else None,
        )
        request._check()
        return request

    def _check(self) -> None:
        hidden, offsets, experts, weights = self.hidden, self.offsets, self.experts, self.weights
        if hidden.dim() != 2 or hidden.dtype not in (_FLOATS if self.scales is None else (E4M3,)):
            raise ProtocolError(f"rows must be floats [n, H], got {hidden.dtype} {list(hidden.shape)}")
        if hidden.numel() > MOST_VALUES:  # packed ones come in a quarter of the bytes
            raise ProtocolError(f"rows [n, H] of {list(hidden.shape)} are more than {MOST_VALUES} values")
        if self.scales is not None:
            _check_scales(self.scales, len(hidden))
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

    def to_message(self, packed: bool = False) -> Message:
        """``packed``: as the rows of the request were."""
        if packed:
            rows = pack(self.values)
            return Message(ExpertKind.PARTIAL_SUMS, b"", (rows.values, self.missing, rows.scales), FP8)
        kind = ExpertKind.PAIR_OUTPUTS if self.per_pair else ExpertKind.PARTIAL_SUMS
        return Message(kind, b"", (self.values, self.missing))

    @classmethod
    def from_message(cls, message: Message, request: ComputeRequest) -> ComputeReply:
        """
        Raises:
            ProtocolError: not an answer to ``request``.
        """
        kind = ExpertKind.PAIR_OUTPUTS if request.per_pair else ExpertKind.PARTIAL_SUMS
        packed = request.scales is not None
        if message.kind != kind or len(message.tensors) != 2 + packed or bool(message.flags & FP8) != packed:
            raise ProtocolError(f"expected {kind.name}, got kind {message.kind:#x}, flags {message.flags:#x}")
        values, missing = message.tensors[:2]
        rows = len(request.experts) if request.per_pair else len(request.hidden)
        if values.dtype != (E4M3 if packed else torch.float32) or values.shape != (rows, request.hidden.shape[1]):
            raise ProtocolError(f"asked for {rows} rows, got {values.dtype} {list(values.shape)}")
        if missing.dtype != torch.int32 or missing.dim() != 1:
            raise ProtocolError(f"missing pairs must be int32 [M], got {missing.dtype} {list(missing.shape)}")
        if len(missing) and not ((missing >= 0) & (missing < len(request.experts))).all():
            raise ProtocolError(f"missing pairs are not all among the {len(request.experts)} asked for")
        if packed:
            scales = message.tensors[2]
            _check_scales(scales, rows)
            values = PackedRows(values, scales).unpacked(torch.float32)
        return cls(values, missing, request.per_pair)


def _check_scales(scales: Tensor, rows: int) -> None:
    if scales.dtype != torch.float32 or scales.shape != (rows,):
        raise ProtocolError(f"scales of {rows} rows must be float32 [{rows}], got {scales.dtype} {list(scales.shape)}")
