"""The inner loops of a lean step on a CPU: each is one call for all tokens of a step. Compiled by Numba.

Rows are float32, or uint16, which is how bfloat16 looks where there is none; arithmetic and sums are in float32. All
arrays are contiguous. ``T`` are a step's tokens, ``N`` query heads, ``M`` heads of keys and values, ``D`` their width.
A token whose values are not finite gets no finite ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload
from numpy.typing import NDArray

from moe_placement.compiled import compiled_sums, inlined

Rows = NDArray[Any]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NO_NORM, NORM_OF_HEAD, NORM_OF_ROW = range(3)
"""What the norms of queries and keys span."""

_ONE = np.float32(1)
_ZERO = np.float32(0)
_HALF = np.float32(0.5)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_LEAST = np.float32(-87.0)
_P0, _P1, _P2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_P3, _P4, _P5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_ROUND, _QUIET = np.uint32(0x7FFF), np.uint16(0x7FC0)
_BITS = np.uint32(16)


def _wide(value: Any) -> Any:
    """As float32."""
    raise NotImplementedError


def _narrow(value: Any, like: Any) -> Any:
    """A float32 as what ``like`` is, the nearest; of two the even one."""
    raise NotImplementedError


@overload(_wide, strict=False)  # annotations of implementations differ
def _compile_wide(value: Any) -> Any:
    if isinstance(value, types.Float):
        return lambda value: value
    return lambda value: np.uint32(np.uint32(value) << _BITS).view(np.float32)


@overload(_narrow, strict=False)
def _compile_narrow(value: Any, like: Any) -> Any:
    if isinstance(like, types.Float):
        return lambda value, like: value

    def rounded(value: Any, like: Any) -> Any:
        bits = np.float32(value).view(np.uint32)
        upper = np.uint16((bits + _ROUND + ((bits >> _BITS) & np.uint32(1))) >> _BITS)
        return upper if value == value else _QUIET

    return rounded


@inlined
def _exp(value: Any) -> Any:
    """e to the power of a float32 of at most 0, within two units in the last place; at least e to the -87.

    Cephes' ``expf`` without branches, so that vector units compute many at once.
    """
    value = _LEAST if value < _LEAST else value
    whole = np.floor(value * _LOG2_E + _HALF)
    rest = value - whole * _LN2_HIGH - whole * _LN2_LOW
    series = ((((_P0 * rest + _P1) * rest + _P2) * rest + _P3) * rest + _P4) * rest + _P5
    power = np.int32((np.int32(whole) + 127) << 23).view(np.float32)
    return (series * rest * rest + rest + _ONE) * power


@compiled_sums
def _norm_factor(row: Rows, begin: int, end: int, epsilon: Any) -> Any:
    """By which a root-mean-square norm multiplies entries ``begin`` to ``end`` of a row."""
    total = _ZERO
    for place in range(begin, end):
        value = _wide(row[place])
        total += value * value
    return _ONE / np.sqrt(total / np.float32(end - begin) + epsilon)


@compiled_sums
def norm(rows: Rows, weight: Rows, epsilon: Any, out: Rows) -> None:
    """Root-mean-square norm of ``rows`` ``[T, H]`` with ``weight`` ``[H]``."""
    for token in range(rows.shape[0]):
        row, target = rows[token], out[token]
        factor = _norm_factor(row, 0, len(row), epsilon)
        for place in range(len(row)):
            target[place] = _narrow(_wide(weight[place]) * (_wide(row[place]) * factor), target[place])


@compiled_sums
def place(
    packed: Rows, kind: int, weight: Floats, epsilon: Any, cos: Floats, sin: Floats, rows: Ints, query: Rows,
    keys: Rows, values: Rows,
) -> None:  # fmt: skip
    """Projections of a step: norms and rotary embeddings applied, keys and values filed in the cache.

    Args:
        packed: ``[T, (N + 2 M) D]``, queries, keys and values.
        kind: of norms.
        weight: ``[(N + M) D]``, of the norms; ones where there are none.
        cos, sin: ``[T, D / 2]``.
        rows: ``[T]``, where in the cache each token's keys and values go.
        query: ``[T, N, D]``, to be written.
        keys, values: ``[rows, M, D]``, the layer's cache.
    """
    heads, width = query.shape[1], query.shape[2]
    half, all_heads = width // 2, heads + keys.shape[1]
    for token in range(len(rows)):
        row = packed[token]
        factor = _ONE
        for head in range(all_heads):
            begin = head * width
            if kind == NORM_OF_HEAD:
                factor = _norm_factor(row, begin, begin + width, epsilon)
            elif kind == NORM_OF_ROW and head == 0:
                factor = _norm_factor(row, 0, heads * width, epsilon)
            elif kind == NORM_OF_ROW and head == heads:
                factor = _norm_factor(row, begin, all_heads * width, epsilon)
            target = query[token, head] if head < heads else keys[rows[token], head - heads]
            for left in range(half):
                right = left + half
                first = _wide(row[begin + left]) * factor * weight[begin + left]
                second = _wide(row[begin + right]) * factor * weight[begin + right]
                target[left] = _narrow(first * cos[token, left] - second * sin[token, left], target[left])
                target[right] = _narrow(second * cos[token, left] + first * sin[token, left], target[right])
        kept = values[rows[token]]
        for head in range(kept.shape[0]):
            begin = (all_heads + head) * width
            for entry in range(width):
                kept[head, entry] = row[begin + entry]


@compiled_sums
def attend(
    query: Rows, tokens: Ints, tables: Ints, block: int, firsts: Ints, lengths: Ints, scaling: Any, keys: Rows,
    values: Rows, out: Rows,
) -> None:  # fmt: skip
    """Attention of tokens that are the last of their sequences, each to its own past, itself included.

    Args:
        query: ``[T, N, D]``.
        tokens: ``[B]``, which of them.
        tables: ``[B, blocks]``, of each one's sequence the row of the cache where each block begins.
        block: tokens in a block.
        firsts, lengths: ``[B]``, which positions each sees: from the first on, below the length.
        keys, values: ``[rows, M, D]``, the layer's cache.
        out: ``[T, N, D]``, to be written for ``tokens``.
    """
    heads, width, kv_heads = query.shape[1], query.shape[2], keys.shape[1]
    group = heads // kv_heads
    longest = 0
    for number in range(len(tokens)):
        longest = max(longest, lengths[number] - firsts[number])
    scores = np.empty((heads, longest), dtype=np.float32)
    asked = np.empty((heads, width), dtype=np.float32)
    sums = np.empty((heads, width), dtype=np.float32)
    most = np.empty(heads, dtype=np.float32)
    for number in range(len(tokens)):
        token, first, length = tokens[number], firsts[number], lengths[number]
        for head in range(heads):
            most[head] = -np.inf
            for entry in range(width):
                asked[head, entry] = _wide(query[token, head, entry]) * scaling
                sums[head, entry] = _ZERO
        # All heads of a row before the next one: memory is read in the order in which it lies.
        for part in range(first // block, (length + block - 1) // block):
            begin = part * block
            start = tables[number, part] - begin
            for position in range(max(first, begin), min(length, begin + block)):
                keys_here = keys[start + position]
                for kv_head in range(kv_heads):
                    key = keys_here[kv_head]
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        query_here = asked[head]
                        score = _ZERO
                        for entry in range(width):
                            score += query_here[entry] * _wide(key[entry])
                        scores[head, position - first] = score
                        most[head] = score if score > most[head] else most[head]
        for head in range(heads):
            row, highest, total = scores[head], most[head], _ZERO
            for place in range(length - first):
                row[place] = _exp(row[place] - highest)
                total += row[place]
            most[head] = total
        for part in range(first // block, (length + block - 1) // block):
            begin = part * block
            start = tables[number, part] - begin
            for position in range(max(first, begin), min(length, begin + block)):
                values_here = values[start + position]
                for kv_head in range(kv_heads):
                    value = values_here[kv_head]
                    for head in range(kv_head * group, (kv_head + 1) * group):
                        share, sums_here = scores[head, position - first], sums[head]
                        for entry in range(width):
                            sums_here[entry] += share * _wide(value[entry])
        for head in range(heads):
            target, sums_here, factor = out[token, head], sums[head], _ONE / most[head]
            for entry in range(width):
                target[entry] = _narrow(sums_here[entry] * factor, target[entry])


@compiled_sums
def choose(logits: Rows, renormalise: bool, ids: Ints, weights: Floats) -> None:
    """A gate's choice: of the softmax over all experts the largest, descending.

    Args:
        logits: ``[T, E]``.
        renormalise: weights of a token sum up to 1.
        ids, weights: ``[T, K]``, to be written.
    """
    experts, top_k = logits.shape[1], ids.shape[1]
    best = np.empty(top_k, dtype=np.float32)
    for token in range(logits.shape[0]):
        chosen = ids[token]
        for rank in range(top_k):
            best[rank] = np.nan  # before which everything goes, other NaN included: no expert is chosen twice
        for expert in range(experts):
            value = _wide(logits[token, expert])
            if not value <= best[top_k - 1]:
                rank = top_k - 1
                while rank > 0 and not value <= best[rank - 1]:
                    best[rank], chosen[rank] = best[rank - 1], chosen[rank - 1]
                    rank -= 1
                best[rank], chosen[rank] = value, expert
        total = _ZERO
        for expert in range(experts):
            total += _exp(_wide(logits[token, expert]) - best[0])
        kept = _ZERO
        for rank in range(top_k):
            weights[token, rank] = _exp(_wide(logits[token, chosen[rank]]) - best[0]) / total
            kept += weights[token, rank]
        if renormalise:
            for rank in range(top_k):
                weights[token, rank] /= kept


def prepare() -> None:
    """Compile all for rows of either kind, or load them from where they are kept: no model's first step waits."""
    ids, floats, number = np.zeros((1, 1), dtype=np.int64), np.ones((1, 1), dtype=np.float32), np.float32(1)
    weight = np.ones(4, dtype=np.float32)
    for kind in (np.float32, np.uint16):
        flat, cube = np.zeros((1, 6), dtype=kind), np.zeros((1, 1, 2), dtype=kind)
        norm(flat, flat[0], number, flat)
        place(flat, NO_NORM, weight, number, floats, floats, ids[0], cube, cube.copy(), cube.copy())
        attend(cube, ids[0], ids, 1, ids[0], ids[0] + 1, number, cube, cube, cube.copy())
        choose(flat, False, ids.copy(), floats.copy())
