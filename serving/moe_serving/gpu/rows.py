"""Norms, rotary embeddings and the gate's choice: what ``engine/lean/kernels.py`` does on a CPU, by the same contract.

Rows are of any floating dtype, arithmetic and sums are in float32; all tensors are contiguous and on one device. ``T``
are a step's tokens, ``N`` query heads, ``M`` heads of keys and values, ``D`` their width. A token whose values are not
finite gets no finite ones.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from moe_serving.gpu.tiles import tile


def norm(rows: Tensor, weight: Tensor, epsilon: float, out: Tensor) -> None:
    """Root-mean-square norm of ``rows`` ``[T, H]`` with ``weight`` ``[H]``; ``out`` may be ``rows``."""
    width = rows.shape[1]
    _norm[(rows.shape[0],)](rows, weight, float(epsilon), out, width, tile(width))


@triton.jit
def _norm(rows, weight, epsilon, out, H: tl.constexpr, HP: tl.constexpr):
    at = tl.arange(0, HP)
    inside = at < H
    begin = tl.program_id(0).to(tl.int64) * H
    row = tl.load(rows + begin + at, mask=inside, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(row * row, 0) / H + epsilon)
    normed = tl.load(weight + at, mask=inside, other=0.0).to(tl.float32) * (row * factor)
    tl.store(out + begin + at, normed.to(out.dtype.element_ty), mask=inside)


def place(
    packed: Tensor, kind: int, weight: Tensor, epsilon: float, cos: Tensor, sin: Tensor, rows: Tensor, query: Tensor,
    keys: Tensor, values: Tensor,
) -> None:  # fmt: skip
    """Projections of a step: norms and rotary embeddings applied, keys and values filed in the cache.

    Args:
        packed: ``[T, (N + 2 M) D]``, queries, keys and values.
        kind: of norms, as ``engine/lean/kernels.py`` numbers them: none, of each head, of all heads of a row together.
        weight: float32 ``[(N + M) D]``, of the norms; ones where there are none.
        cos, sin: float32 ``[T, D / 2]``.
        rows: int64 ``[T]``, where in the cache each token's keys and values go.
        query: ``[T, N, D]``, to be written.
        keys, values: ``[rows, M, D]``, the layer's cache.
    """
    heads, kv_heads, half = query.shape[1], keys.shape[1], query.shape[2] // 2
    _place[(packed.shape[0], heads + 2 * kv_heads)](
        packed, weight, float(epsilon), cos, sin, rows, query, keys, values, kind, heads, kv_heads, half, tile(half),
        tile(2 * half * max(heads, kv_heads)), num_warps=1,
    )  # fmt: skip


@triton.jit
def _place(
    packed, weight, epsilon, cos, sin, rows, query, keys, values, KIND: tl.constexpr, N: tl.constexpr, M: tl.constexpr,
    HALF: tl.constexpr, HALF_P: tl.constexpr, ROW_P: tl.constexpr,
):  # fmt: skip
    D: tl.constexpr = 2 * HALF
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    left = tl.arange(0, HALF_P)
    inside = left < HALF
    row = packed + token * ((N + 2 * M) * D)
    at = row + head * D + left
    first = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(at + HALF, mask=inside, other=0.0).to(tl.float32)
    cached = tl.load(rows + token).to(tl.int64)
    if head >= N + M:
        value_at = values + (cached * M + head - N - M) * D + left
        tl.store(value_at, first.to(values.dtype.element_ty), mask=inside)
        tl.store(value_at + HALF, second.to(values.dtype.element_ty), mask=inside)
    else:
        if KIND == 1:
            factor = tl.rsqrt((tl.sum(first * first, 0) + tl.sum(second * second, 0)) / D + epsilon)
            first, second = first * factor, second * factor
        elif KIND == 2:
            begin = tl.where(head >= N, N * D, 0)
            width = tl.where(head >= N, M * D, N * D)
            entry = tl.arange(0, ROW_P)
            whole = tl.load(row + begin + entry, mask=entry < width, other=0.0).to(tl.float32)
            factor = tl.rsqrt(tl.sum(whole * whole, 0) / width.to(tl.float32) + epsilon)
            first, second = first * factor, second * factor
        first *= tl.load(weight + head * D + left, mask=inside, other=0.0)
        second *= tl.load(weight + head * D + HALF + left, mask=inside, other=0.0)
        c = tl.load(cos + token * HALF + left, mask=inside, other=0.0)
        s = tl.load(sin + token * HALF + left, mask=inside, other=0.0)
        turned, other = first * c - second * s, second * c + first * s
        if head >= N:
            key_at = keys + (cached * M + head - N) * D + left
            tl.store(key_at, turned.to(keys.dtype.element_ty), mask=inside)
            tl.store(key_at + HALF, other.to(keys.dtype.element_ty), mask=inside)
        else:
            query_at = query + (token * N + head) * D + left
            tl.store(query_at, turned.to(query.dtype.element_ty), mask=inside)
            tl.store(query_at + HALF, other.to(query.dtype.element_ty), mask=inside)


def choose(logits: Tensor, renormalise: bool, ids: Tensor, weights: Tensor) -> None:
    """A gate's choice: of the softmax over all experts the largest, descending; of equal ones the lowest number first.

    Args:
        logits: ``[T, E]``.
        renormalise: weights of a token sum up to 1.
        ids, weights: int64 and float32 ``[T, K]``, to be written. No expert is chosen twice, whatever the logits are.
    """
    experts, top_k = logits.shape[1], ids.shape[1]
    _choose[(logits.shape[0],)](
        logits, ids, weights, renormalise, experts, top_k, tile(experts), tile(top_k), num_warps=1
    )


@triton.jit
def _choose(
    logits, ids, weights, RENORMALISE: tl.constexpr, E: tl.constexpr, K: tl.constexpr, EP: tl.constexpr,
    KP: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    expert, rank = tl.arange(0, EP), tl.arange(0, KP)
    x = tl.load(logits + token * E + expert, mask=expert < E, other=0.0).to(tl.float32)
    # Order as of integers, in which NaN has a place (the first) and what was taken has one behind all others.
    bits = tl.where(x == 0.0, 0.0, x).to(tl.int32, bitcast=True)
    order = tl.where(x == x, bits ^ ((bits >> 31) & 0x7FFFFFFF), 0x7FFFFFFF)
    order = tl.where(expert < E, order, -0x80000000)
    chosen, best = tl.zeros([KP], tl.int32), tl.zeros([KP], tl.float32)
    for place_ in tl.static_range(K):
        most = tl.max(order, 0)
        at = tl.min(tl.where((order == most) & (expert < E), expert, EP), 0)
        value = tl.sum(tl.where(expert == at, x, 0.0), 0)
        chosen = tl.where(rank == place_, at, chosen)
        best = tl.where(rank == place_, value, best)
        order = tl.where(expert == at, -0x80000000, order)
    highest = tl.sum(tl.where(rank == 0, best, 0.0), 0)
    total = tl.sum(tl.where(expert < E, tl.exp(x - highest), 0.0), 0)
    share = tl.where(rank < K, tl.exp(best - highest) / total, 0.0)
    if RENORMALISE:
        share = share / tl.sum(share, 0)
    tl.store(ids + token * K + rank, chosen.to(ids.dtype.element_ty), mask=rank < K)
    tl.store(weights + token * K + rank, share, mask=rank < K)
