"""Experts as e4m3 with a scale for each row of a matrix.

A packed matrix is one tensor, so that it lies in a slot, travels from shard to shard and has its digest as any other:
its rows, and behind them, in as many further rows as that takes, their scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from moe_serving.checkpoint.reader import ExpertForm, ExpertReader, ExpertWeights, digest_of
from moe_serving.fp8.rows import E4M3, PackedRows, pack

_AT_ONCE = 1 << 20
"""Numbers that are packed or unpacked at a time."""


class PackingReader(ExpertReader):
    """Packs experts as they are read."""

    @property
    def form(self) -> ExpertForm:
        plain = super().form
        return replace(plain, dtype=E4M3, unpacked=plain.dtype)

    def read_into(self, weights: ExpertWeights, layer: int, expert: int) -> bytes:
        """As ``ExpertReader.read_into``; the dtype served is in memory for one expert, and only meanwhile."""
        plain = super().form
        gate_up, down = (
            torch.empty(shape, dtype=plain.dtype, device=self._device) for shape in (plain.gate_up, plain.down)
        )
        super().read_into(ExpertWeights(gate_up, down, plain.activation), layer, expert)
        pack_into(weights.gate_up, gate_up)
        pack_into(weights.down, down)
        return digest_of(weights)


class UnpackedExperts(Mapping[int, ExpertWeights]):
    """Experts to compute with, of packed ones: each is unpacked when it is asked for, and kept by nobody."""

    def __init__(self, packed: Mapping[int, ExpertWeights], form: ExpertForm) -> None:
        self._packed = packed
        self._form = form

    def __getitem__(self, expert: int) -> ExpertWeights:
        packed, form = self._packed[expert], self._form
        gate_up, down = (
            unpacked(matrix, rows, form.rows_dtype)
            for matrix, rows in ((packed.gate_up, 2 * form.intermediate), (packed.down, form.hidden))
        )
        return ExpertWeights(gate_up, down, packed.activation)

    def __iter__(self) -> Iterator[int]:
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)


def pack_into(packed: Tensor, matrix: Tensor) -> None:
    """Fill ``packed``, e4m3 ``[packed_height(n, m), m]``, with ``matrix`` ``[n, m]``."""
    rows = len(matrix)
    behind = packed[rows:].view(torch.uint8).view(-1)
    for begin, end in _blocks(matrix):
        made = pack(matrix[begin:end])
        packed[begin:end] = made.values
        behind[4 * begin : 4 * end] = made.scales.view(torch.uint8)
    behind[4 * rows :] = 0


def unpacked(packed: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """``[rows, m]`` in a dtype to compute with, as ``pack_into`` has packed it."""
    # A copy, so that it is aligned.
    scales = packed[rows:].view(torch.uint8).view(-1)[: 4 * rows].clone().view(torch.float32)
    made = torch.empty(rows, packed.shape[1], dtype=dtype, device=packed.device)
    for begin, end in _blocks(made):
        made[begin:end] = PackedRows(packed[begin:end], scales[begin:end]).unpacked(dtype)
    return made


def _blocks(matrix: Tensor) -> Iterator[tuple[int, int]]:
    """Rows of a matrix, some at a time: what lies between, in float32, takes several times their bytes."""
    step = max(1, _AT_ONCE // matrix.shape[1])
    return ((begin, min(begin + step, len(matrix))) for begin in range(0, len(matrix), step))
