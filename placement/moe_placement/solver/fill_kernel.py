"""Copies onto the shards of one region, largest first, completing what is held already.

Array arguments: load float64 [experts] of this region; held bool [experts, shards], changed in place; copies int64
[experts] wanted of each; slots int64 [shards]; share float64 [shards] (what each should carry, in proportion).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@compiled
def replicate(load: Floats, copies: Ints, room: int, most: int) -> None:
    """Hand out up to ``room`` further copies, each to the expert with the highest load per copy."""
    for _ in range(room):
        best, best_load = -1, 0.0
        for e in range(len(load)):
            if 0 < copies[e] < most and load[e] / copies[e] > best_load:
                best, best_load = e, load[e] / copies[e]
        if best < 0:
            return
        copies[best] += 1


@compiled
def fill(load: Floats, held: Bools, copies: Ints, slots: Ints, share: Floats) -> int:
    """Bring every expert to ``copies`` copies on distinct shards; returns how many could not be placed.

    The heaviest copies go first, each to the shard with the least load for its share. A full shard gives up copies that
    nobody needs, or trades one for room elsewhere.
    """
    experts, shards = held.shape
    used, filled, have = np.zeros(shards, np.int64), np.zeros(shards), np.zeros(experts, np.int64)
    for e in range(experts):
        for g in range(shards):
            have[e] += held[e, g]
            used[g] += held[e, g]
    for e in range(experts):
        for g in range(shards):
            if held[e, g]:
                filled[g] += load[e] / max(have[e], copies[e])
    order = np.argsort(-load / np.maximum(copies, 1), kind="mergesort")
    for g in range(shards):
        while used[g] > slots[g]:
            used[g] -= _drop_surplus(held, have, copies, g)
    missing = free = 0
    for e in range(experts):
        missing += max(0, copies[e] - have[e])
    for g in range(shards):
        free += slots[g] - used[g]
    while free < missing:
        dropped = False
        for g in range(shards):
            if free < missing and _drop_one_surplus(held, have, copies, g):
                used[g] -= 1
                free += 1
                dropped = True
        if not dropped:
            break
    failed = 0
    for position in range(experts):
        e = order[position]
        while have[e] < copies[e]:
            target = -1
            for g in range(shards):
                if held[e, g] or used[g] >= slots[g] or share[g] <= 0:
                    continue
                if target < 0 or filled[g] / share[g] < filled[target] / share[target]:
                    target = g
            if target < 0:
                target = _make_room(e, held, used, slots)
            if target < 0:
                failed += 1
                break
            held[e, target] = True
            have[e] += 1
            used[target] += 1
            filled[target] += load[e] / copies[e]
    return failed


@compiled
def _drop_one_surplus(held: Bools, have: Ints, copies: Ints, g: int) -> bool:
    """Remove from shard g a copy beyond what its expert needs, if there is one."""
    for e in range(len(have)):
        if held[e, g] and have[e] > copies[e]:
            held[e, g] = False
            have[e] -= 1
            return True
    return False


@compiled
def _drop_surplus(held: Bools, have: Ints, copies: Ints, g: int) -> int:
    """Remove one copy from an overfull shard: a surplus one if there is one, else any."""
    if not _drop_one_surplus(held, have, copies, g):
        for e in range(len(have)):
            if held[e, g]:
                held[e, g] = False
                have[e] -= 1
                break
    return 1


@compiled
def _make_room(e: int, held: Bools, used: Ints, slots: Ints) -> int:
    """Move some other copy from a shard that may take e to one with room; returns the shard freed, or -1."""
    experts, shards = held.shape
    for g in range(shards):
        if held[e, g] or slots[g] == 0:
            continue
        for h in range(shards):
            if used[h] >= slots[h]:
                continue
            for f in range(experts):
                if held[f, g] and not held[f, h]:
                    held[f, g], held[f, h] = False, True
                    used[g] -= 1
                    used[h] += 1
                    return g
    return -1
