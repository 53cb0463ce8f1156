"""The experts of a layer for all rows of a step: four kernels, however many experts are chosen.

Pairs (a row and an expert chosen for it) are sorted by expert into blocks of ``tiles.SMALLEST``; two projections read
each chosen expert's weights once, from wherever they lie; a last kernel adds up what belongs to a row. ``T`` are rows,
``K`` experts of each, ``E`` those of the table, ``H`` and ``I`` the widths of a row and inside an expert.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_serving.gpu.table import ExpertTable
from moe_serving.gpu.tiles import SMALLEST, count, tile

ACTIVATIONS = {"silu": 0, "gelu": 1, "relu": 2}
"""Those of ``experts/compute.py``, as the kernels number them."""

_TILE_BYTES = 256
"""Of a row of weights that is read at once."""
_COLUMNS = 64
_SORTED_AT_ONCE = 4096
"""Pairs."""


class Tuning(NamedTuple):
    """How the projections cut up a matrix: columns of a tile, its depth, and how many are on their way at a time."""

    columns: int = _COLUMNS
    depth: int = 128
    warps: int = 4
    stages: int = 4


def tuning_for(dtype: torch.dtype, shared_bytes: int) -> Tuning:
    """What was best on an H100 for bfloat16, as far as it fits.

    Args:
        dtype: of rows and weights; of the wider, where they differ.
        shared_bytes: of memory that a program has on its multiprocessor.
    """
    depth = _TILE_BYTES // dtype.itemsize
    stage = depth * (2 * _COLUMNS + SMALLEST) * dtype.itemsize
    return Tuning(depth=depth, stages=max(1, min(4, shared_bytes // stage - 1)))


def compute_experts(
    rows: Tensor, ids: Tensor, weights: Tensor, table: ExpertTable, out: Tensor, tuning: Tuning
) -> None:
    """``out[t] = Σ weight · down(act(gate(row)) · up(row))`` over the experts of row ``t``, in the order of its ids.

    Args:
        rows: ``[T, H]``.
        ids: integers ``[T, K]``, places in ``table``; what is none, as -1, adds nothing.
        weights: float32 ``[T, K]``, by which each expert's output is multiplied, in float32.
        out: ``[T, H]`` of any floating dtype, to be written; sums are in float32.
    """
    tokens, top_k = ids.shape
    if not tokens:
        return
    sorted_ = sort_pairs(ids, len(table))
    inner = rows.new_empty(ids.numel(), table.inner)
    outputs = torch.empty(ids.numel(), table.hidden, dtype=torch.float32, device=rows.device)
    how = {"num_warps": tuning.warps, "num_stages": tuning.stages}
    columns, depth = tile(table.inner, tuning.columns), tile(table.hidden, tuning.depth)
    _gate_up[(count(table.inner, columns), len(sorted_.experts))](
        rows, table.gate_up, table.gate_up_at, table.gate_up_scale, *sorted_, inner, table.hidden, table.inner, top_k,
        table.unit, ACTIVATIONS[table.activation], table.gate_up_scale is not None, SMALLEST, columns, depth, **how,
    )  # fmt: skip
    columns, depth = tile(table.hidden, tuning.columns), tile(table.inner, tuning.depth)
    _down[(count(table.hidden, columns), len(sorted_.experts))](
        inner, table.down, table.down_at, table.down_scale, *sorted_, weights, outputs, table.hidden, table.inner,
        table.unit, table.down_scale is not None, SMALLEST, columns, depth, **how,
    )  # fmt: skip
    columns = tile(table.hidden, 1024)
    _add[(tokens, count(table.hidden, columns))](outputs, ids, out, len(table), top_k, table.hidden, columns)


class SortedPairs(NamedTuple):
    """Attributes:
    order: int32 ``[blocks * SMALLEST]``, pairs sorted by expert; each expert's begin a block, and -1 fills the last.
    experts: int32 ``[blocks]``, whose pairs are in each; -1 where there are none.
    """

    order: Tensor
    experts: Tensor


def sort_pairs(ids: Tensor, experts: int) -> SortedPairs:
    """Pairs of ``ids`` ``[T, K]`` by expert, those left out whose id is not below ``experts``, or negative.

    How many blocks there are depends on sizes alone, so that nobody waits for what the ids are.
    """
    pairs = ids.numel()
    blocks = min(pairs, experts) + pairs // SMALLEST
    order = torch.empty(blocks * SMALLEST, dtype=torch.int32, device=ids.device)
    block_experts = torch.empty(blocks, dtype=torch.int32, device=ids.device)
    padded = max(64, tile(experts + 1))
    begins, filled = torch.empty(2, padded, dtype=torch.int32, device=ids.device)
    at_once = max(128, tile(pairs, _SORTED_AT_ONCE))
    _sort[(1,)](
        ids, order, block_experts, begins, filled, pairs, blocks, experts, padded, at_once, SMALLEST, num_warps=8
    )
    return SortedPairs(order, block_experts)


@triton.jit(do_not_specialize=["pairs", "blocks"])
def _sort(
    ids, order, block_experts, begins, filled, pairs, blocks, E: tl.constexpr, EP: tl.constexpr, PT: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """In one program: it needs no counts of others. What is no id counts as expert ``E``, which has no blocks."""
    expert, lane = tl.arange(0, EP), tl.arange(0, PT)
    counts = tl.zeros([EP], tl.int32)
    for at in range(0, pairs, PT):
        found = tl.load(ids + at + lane, mask=at + lane < pairs, other=-1).to(tl.int32)
        counts += tl.histogram(tl.where((found >= 0) & (found < E), found, E), EP)
    counts = tl.where(expert < E, counts, 0)
    taken = (counts + BM - 1) // BM
    begin = tl.cumsum(taken, 0) - taken
    tl.store(begins + expert, begin * BM)
    tl.store(filled + expert, tl.zeros([EP], tl.int32))
    for number in range(tl.max(taken, 0)):
        tl.store(block_experts + begin + number, expert, mask=number < taken)
    for gap in tl.static_range(BM - 1):
        tl.store(order + begin * BM + counts + gap, -1, mask=counts + gap < taken * BM)
    for at in range(tl.sum(taken, 0), blocks, PT):
        tl.store(block_experts + at + lane, -1, mask=at + lane < blocks)
    tl.debug_barrier()
    for at in range(0, pairs, PT):
        found = tl.load(ids + at + lane, mask=at + lane < pairs, other=-1).to(tl.int32)
        valid = (found >= 0) & (found < E)
        found = tl.where(valid, found, 0)
        rank = tl.atomic_add(filled + found, 1, mask=valid)
        to = tl.load(begins + found, mask=valid, other=0) + rank
        tl.store(order + to, at + lane, mask=valid)


@triton.jit
def _activate(gate, KIND: tl.constexpr):
    if KIND == 0:
        activated = gate * tl.sigmoid(gate)
    elif KIND == 1:
        activated = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    else:
        activated = tl.where(gate > 0.0, gate, gate * 0.0)  # NaN stays
    return activated


@triton.jit
def _load(at, mask, WHOLE: tl.constexpr):
    """Without a mask, where every tile is whole: reads are wider then."""
    return tl.load(at) if WHOLE else tl.load(at, mask=mask, other=0.0)


@triton.jit
def _gate_up(
    rows, weights, places, scales, order, block_experts, inner, H: tl.constexpr, INNER: tl.constexpr, K: tl.constexpr,
    UNIT: tl.constexpr, ACTIVATION: tl.constexpr, SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    BK: tl.constexpr,
):  # fmt: skip
    expert = tl.load(block_experts + tl.program_id(1))
    if expert < 0:
        return
    pair = tl.load(order + tl.program_id(1) * BM + tl.arange(0, BM))
    own = pair >= 0
    row = tl.where(own, pair // K, 0).to(tl.int64)
    n, k = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    rows_at = rows + row[:, None] * H + k[None, :]
    gate_at = weights + tl.load(places + expert) * UNIT + n[:, None] * H + k[None, :]
    gate, up = tl.zeros([BM, BN], tl.float32), tl.zeros([BM, BN], tl.float32)
    WHOLE: tl.constexpr = H % BK == 0 and INNER % BN == 0
    for at in range(0, H, BK):
        deep = at + k < H
        part = tl.load(rows_at + at, mask=own[:, None] & deep[None, :], other=0.0)
        inside = (n < INNER)[:, None] & deep[None, :]
        of_gate = _load(gate_at + at, inside, WHOLE)
        of_up = _load(gate_at + at + INNER * H, inside, WHOLE)
        gate = tl.dot(part, tl.trans(of_gate.to(part.dtype)), gate, input_precision="ieee")
        up = tl.dot(part, tl.trans(of_up.to(part.dtype)), up, input_precision="ieee")
    if SCALED:
        gate *= tl.load(scales + expert * 2 * INNER + n, mask=n < INNER, other=0.0)[None, :]
        up *= tl.load(scales + expert * 2 * INNER + INNER + n, mask=n < INNER, other=0.0)[None, :]
    made = (_activate(gate, ACTIVATION) * up).to(inner.dtype.element_ty)
    inner_at = inner + pair.to(tl.int64)[:, None] * INNER + n[None, :]
    tl.store(inner_at, made, mask=own[:, None] & (n < INNER)[None, :])


@triton.jit
def _down(
    inner, weights, places, scales, order, block_experts, gate_weights, outputs, H: tl.constexpr, INNER: tl.constexpr,
    UNIT: tl.constexpr, SCALED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    expert = tl.load(block_experts + tl.program_id(1))
    if expert < 0:
        return
    pair = tl.load(order + tl.program_id(1) * BM + tl.arange(0, BM))
    own = pair >= 0
    pair = tl.where(own, pair, 0).to(tl.int64)
    n, k = tl.program_id(0) * BN + tl.arange(0, BN), tl.arange(0, BK)
    inner_at = inner + pair[:, None] * INNER + k[None, :]
    down_at = weights + tl.load(places + expert) * UNIT + n[:, None] * INNER + k[None, :]
    made = tl.zeros([BM, BN], tl.float32)
    WHOLE: tl.constexpr = INNER % BK == 0 and H % BN == 0
    for at in range(0, INNER, BK):
        deep = at + k < INNER
        part = tl.load(inner_at + at, mask=own[:, None] & deep[None, :], other=0.0)
        of_down = _load(down_at + at, (n < H)[:, None] & deep[None, :], WHOLE)
        made = tl.dot(part, tl.trans(of_down.to(part.dtype)), made, input_precision="ieee")
    if SCALED:
        made *= tl.load(scales + expert * H + n, mask=n < H, other=0.0)[None, :]
    made *= tl.load(gate_weights + pair, mask=own, other=0.0)[:, None]
    tl.store(outputs + pair[:, None] * H + n[None, :], made, mask=own[:, None] & (n < H)[None, :])


@triton.jit
def _add(outputs, ids, out, E: tl.constexpr, K: tl.constexpr, H: tl.constexpr, BN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros([BN], tl.float32)
    for rank in tl.static_range(K):
        expert = tl.load(ids + row * K + rank)
        width = tl.where((expert >= 0) & (expert < E), H, 0)
        sums += tl.load(outputs + (row * K + rank) * H + n, mask=n < width, other=0.0)
    tl.store(out + row * H + n, sums.to(out.dtype.element_ty), mask=n < H)
