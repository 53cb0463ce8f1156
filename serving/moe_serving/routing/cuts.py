"""Cuts the pairs of a layer into what each shard is asked: one call of compiled code in place of thirty of NumPy's.

After a wait for shards the caches hold their weights, and what is called first is slow: another operation costs tens of
microseconds then, however little it has to do.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.dispatch import plain

Ints = NDArray[np.int64]
Shorts = NDArray[np.int32]
Floats = NDArray[np.float32]


class Cut(NamedTuple):
    """The pairs of one shard, in the order of tokens and places.

    Attributes:
        position: of the shard.
        rows: ``[n]``, the tokens that have any, ascending.
        offsets: ``[n + 1]``, at which pair each of them begins; at last how many pairs there are.
        token, place: ``[P]``, of each pair.
        experts, weights: ``[P]``, of each pair.
    """

    position: int
    rows: Ints
    offsets: Shorts
    token: Ints
    place: Ints
    experts: Shorts
    weights: Floats


def cut(choice: Ints, experts: Ints, gates: Floats) -> list[Cut]:
    """One for each shard that has pairs, by ascending position.

    Args:
        choice: ``[T, K]``, the position of each pair's shard; -1 for those that nobody is asked for.
        experts, gates: ``[T, K]``.
    """
    arrays = plain(choice), plain(experts), np.require(gates, np.float32, ["C", "A", "W"])
    shards, pair_ends, row_ends, token, place, expert, weight, rows, offsets = _cut(*arrays)
    pairs, tokens = pair_ends.tolist(), row_ends.tolist()
    cuts = []
    for number, position in enumerate(shards.tolist()):
        mine, own = slice(pairs[number], pairs[number + 1]), slice(tokens[number], tokens[number + 1])
        edges = offsets[own.start + number : own.stop + number + 1]
        cuts.append(Cut(position, rows[own], edges, token[mine], place[mine], expert[mine], weight[mine]))
    return cuts


@compiled
def _counts(choice: Ints) -> tuple[Ints, Ints]:
    """Pairs and tokens of each shard, up to the last one that has any."""
    shards = 0
    for token in range(choice.shape[0]):
        for place in range(choice.shape[1]):
            shards = max(shards, choice[token, place] + 1)
    pairs, rows = np.zeros(shards, dtype=np.int64), np.zeros(shards, dtype=np.int64)
    last = np.full(shards, -1, dtype=np.int64)
    for token in range(choice.shape[0]):
        for place in range(choice.shape[1]):
            shard = choice[token, place]
            if shard >= 0:
                pairs[shard] += 1
                rows[shard] += last[shard] != token
                last[shard] = token
    return pairs, rows


@compiled
def _cut(
    choice: Ints, experts: Ints, gates: Floats
) -> tuple[Ints, Ints, Ints, Ints, Ints, Shorts, Floats, Ints, Shorts]:
    """What all shards are asked, one behind the other: their positions, where pairs and rows of each end, then the
    fields of ``Cut``, rows and offsets last."""
    pairs, rows = _counts(choice)
    shards = np.flatnonzero(pairs)
    pair_ends, row_ends = np.zeros(len(shards) + 1, dtype=np.int64), np.zeros(len(shards) + 1, dtype=np.int64)
    numbers, last = np.zeros(len(pairs), dtype=np.int64), np.full(len(pairs), -1, dtype=np.int64)
    for number in range(len(shards)):
        shard = shards[number]
        numbers[shard] = number
        pair_ends[number + 1] = pair_ends[number] + pairs[shard]
        row_ends[number + 1] = row_ends[number] + rows[shard]
    token_of, place_of = np.empty(pair_ends[-1], dtype=np.int64), np.empty(pair_ends[-1], dtype=np.int64)
    expert_of, weight_of = np.empty(pair_ends[-1], dtype=np.int32), np.empty(pair_ends[-1], dtype=np.float32)
    row_of, offsets = np.empty(row_ends[-1], dtype=np.int64), np.empty(row_ends[-1] + len(shards), dtype=np.int32)
    next_pair, next_row = pair_ends.copy(), row_ends.copy()
    for token in range(choice.shape[0]):
        for place in range(choice.shape[1]):
            shard = choice[token, place]
            if shard < 0:
                continue
            number = numbers[shard]
            pair, row = next_pair[number], next_row[number]
            if last[shard] != token:
                last[shard] = token
                row_of[row], offsets[row + number] = token, pair - pair_ends[number]
                next_row[number] = row + 1
            token_of[pair], place_of[pair] = token, place
            expert_of[pair], weight_of[pair] = experts[token, place], gates[token, place]
            next_pair[number] = pair + 1
    for number in range(len(shards)):
        offsets[row_ends[number + 1] + number] = pair_ends[number + 1] - pair_ends[number]
    return shards, pair_ends, row_ends, token_of, place_of, expert_of, weight_of, row_of, offsets


def prepare() -> None:
    """Compile it, or load it from where it is kept: no step waits for that."""
    ids = np.zeros((1, 1), dtype=np.int64)
    cut(ids, ids, np.zeros((1, 1), dtype=np.float32))
