"""Attention of tokens that are the last of their sequences, all in one call: each to its own past, itself included.

What a sequence sees is cut into ranges that are computed side by side, or a single long one would keep most of a GPU
idle; a second kernel merges them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe_serving.gpu.tiles import tile

POSITIONS = 64
"""Of a tile."""
MOST_RANGES = 32
"""Of one sequence and head."""
PROGRAMS = 264
"""To aim at: two for each multiprocessor of an H100."""


def attend(
    query: Tensor, tokens: Tensor, tables: Tensor, block: int, firsts: Tensor, lengths: Tensor, scaling: float,
    keys: Tensor, values: Tensor, out: Tensor, ranges: int | None = None,
) -> None:  # fmt: skip
    """The contract of ``engine/lean/kernels.py``, on tensors of one device. Sums are in float32.

    Args:
        query: ``[T, N, D]``.
        tokens: int64 ``[B]``, which of them.
        tables: int64 ``[B, blocks]``, of each one's sequence the row of the cache where each block begins.
        block: tokens in a block.
        firsts, lengths: int64 ``[B]``, which positions each sees: from the first on, below the length; one at least.
        scaling: of scores.
        keys, values: ``[rows, M, D]``, the layer's cache.
        out: ``[T, N, D]``, to be written for ``tokens``.
        ranges: into which each sequence is cut; None for as many as keep a GPU busy.
    """
    heads, width, kv_heads = query.shape[1], query.shape[2], keys.shape[1]
    number, group = len(tokens), heads // kv_heads
    if ranges is None:
        ranges = ranges_of(number * kv_heads)
    whole = ranges == 1
    parts = out if whole else torch.empty(number * heads * ranges, width, dtype=torch.float32, device=out.device)
    stats = out if whole else torch.empty(number * heads * ranges, 2, dtype=torch.float32, device=out.device)
    _attend[(number, kv_heads, ranges)](
        query, tokens, tables, firsts, lengths, float(scaling), keys, values, out, parts, stats, tables.stride(0),
        ranges, block, kv_heads, group, tile(group), width, tile(width), whole, POSITIONS, num_warps=4, num_stages=2,
    )  # fmt: skip
    if not whole:
        _merge[(number, heads)](parts, stats, tokens, out, ranges, heads, MOST_RANGES, width, tile(width), num_warps=2)


def ranges_of(programs: int) -> int:
    """Into how many ranges, a power of two, each of ``programs`` is cut."""
    wanted = max(1, min(MOST_RANGES, PROGRAMS // max(1, programs)))
    return 1 << (wanted.bit_length() - 1)


@triton.jit(do_not_specialize=["table_width", "ranges"])
def _attend(
    query, tokens, tables, firsts, lengths, scaling, keys, values, out, parts, stats, table_width, ranges,
    BLOCK: tl.constexpr, M: tl.constexpr, G: tl.constexpr, GP: tl.constexpr, D: tl.constexpr, DP: tl.constexpr,
    WHOLE: tl.constexpr, POSITIONS: tl.constexpr,
):  # fmt: skip
    number, kv_head, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    member, entry, step = tl.arange(0, GP), tl.arange(0, DP), tl.arange(0, POSITIONS)
    token = tl.load(tokens + number)
    first, length = tl.load(firsts + number), tl.load(lengths + number)
    tiles = (length - first + POSITIONS - 1) // POSITIONS
    size = (tiles + ranges - 1) // ranges * POSITIONS
    begin = first + part * size
    end = tl.minimum(begin + size, length)
    heads = (member[:, None] < G) & (entry[None, :] < D)
    own = (token * (M * G) + kv_head * G + member[:, None]) * D + entry[None, :]
    asked = tl.load(query + own, mask=heads, other=0.0)
    highest = tl.full([GP], float("-inf"), tl.float32)
    total = tl.zeros([GP], tl.float32)
    sums = tl.zeros([GP, DP], tl.float32)
    for at in range(begin, end, POSITIONS):
        position = (at + step).to(tl.int64)
        seen = position < end
        row = tl.load(tables + number * table_width + position // BLOCK, mask=seen, other=0) + position % BLOCK
        where = row[:, None] * (M * D) + kv_head * D + entry[None, :]
        inside = seen[:, None] & (entry[None, :] < D)
        key = tl.load(keys + where, mask=inside, other=0.0).to(asked.dtype)
        value = tl.load(values + where, mask=inside, other=0.0).to(asked.dtype)
        score = tl.dot(asked, tl.trans(key), input_precision="ieee") * scaling
        score = tl.where(seen[None, :], score, float("-inf"))
        now = tl.maximum(highest, tl.max(score, 1))
        share = tl.exp(score - now[:, None])
        kept = tl.exp(highest - now)
        total = total * kept + tl.sum(share, 1)
        sums = tl.dot(share.to(asked.dtype), value, sums * kept[:, None], input_precision="ieee")
        highest = now
    if WHOLE:
        tl.store(out + own, (sums / total[:, None]).to(out.dtype.element_ty), mask=heads)
    else:
        place = ((number.to(tl.int64) * M + kv_head) * G + member) * ranges + part
        tl.store(parts + place[:, None] * D + entry[None, :], sums, mask=heads)
        tl.store(stats + place * 2, highest, mask=member < G)
        tl.store(stats + place * 2 + 1, total, mask=member < G)


@triton.jit(do_not_specialize=["ranges"])
def _merge(
    parts, stats, tokens, out, ranges, N: tl.constexpr, MOST: tl.constexpr, D: tl.constexpr, DP: tl.constexpr
):  # fmt: skip
    number, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    part, entry = tl.arange(0, MOST), tl.arange(0, DP)
    place, there = (number * N + head) * ranges + part, part < ranges
    highest = tl.load(stats + place * 2, mask=there, other=float("-inf"))
    total = tl.load(stats + place * 2 + 1, mask=there, other=0.0)
    # A range that is empty has seen nothing: what it weighs is 0, and what is not finite anywhere stays so.
    weight = tl.where(total == 0.0, 0.0, tl.exp(highest - tl.max(highest, 0)))
    inside = there[:, None] & (entry[None, :] < D)
    sums = tl.load(parts + place[:, None] * D + entry[None, :], mask=inside, other=0.0)
    merged = tl.sum(sums * weight[:, None], 0) / tl.sum(total * weight, 0)
    token = tl.load(tokens + number)
    tl.store(out + (token * N + head) * D + entry, merged.to(out.dtype.element_ty), mask=entry < D)
