"""The compiled loop of ``cuts``: importing this loads Numba, where it is installed."""

from __future__ import annotations

import numpy as np

from moe_placement.compiled import compiled
from moe_serving.routing.cuts import Floats, Found, Ints


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
def cut(choice: Ints, experts: Ints, gates: Floats) -> Found:
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
