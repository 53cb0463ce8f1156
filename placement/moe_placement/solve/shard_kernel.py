"""Even out the shards of one region (a node, or everything where only loads are known).

``even_out`` takes load from the fullest shard, one change at a time: a swap of two copies, a copy in an empty slot, or
a copy in the place of another's copy. Between changes the loads of replicated experts are levelled over their copies,
as least-loaded dispatch levels them.

Array arguments: load float64 [experts] of this region; held bool [experts, shards], changed in place; slots int64
[shards]; share float64 [shards] (what each should carry, in proportion); least int64 [experts] copies never given up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.solve.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHORTLIST = 300
"""Changes that are remembered, by what they promise."""
EXACT = 24
"""Of these, how many are computed exactly, levelling included, before the best is made; more only if none gains."""


@compiled
def level(load: Floats, held: Bools, share: Floats, part: Floats, filled: Floats, sweeps: int) -> None:
    """Spread each replicated expert over its copies so that the shards' relative loads are as even as they can be.

    Block coordinate descent on the sum of share x (load / share)^2, which has the same minimiser as the lexicographic
    maximum. ``part`` float64 [experts, shards] and ``filled`` [shards] are computed anew on the first sweep.
    """
    experts, shards = held.shape
    filled[:] = 0.0
    part[:] = 0.0
    begin, holders = np.zeros(experts + 1, np.int64), np.empty(experts * shards, np.int64)
    for e in range(experts):
        end = begin[e]
        for g in range(shards):
            if held[e, g]:
                holders[end] = g
                end += 1
        begin[e + 1] = end
        for g in holders[begin[e] : end]:
            part[e, g] = load[e] / (end - begin[e])
            filled[g] += part[e, g]
    for _ in range(sweeps):
        for e in range(experts):
            if begin[e + 1] - begin[e] > 1:
                _pour(load[e], holders[begin[e] : begin[e + 1]], share, part[e], filled)


@compiled
def _pour(amount: float, holders: Ints, share: Floats, part: Floats, filled: Floats) -> None:
    """Water-fill one expert's load over its copies, given the load of all others; ``part`` is the expert's row."""
    for g in holders:
        filled[g] -= part[g]
    # The level is the lowest at which the copies below it have taken the whole amount.
    water = 1e300
    for g in holders:
        top, base, width = filled[g] / share[g], 0.0, 0.0
        for h in holders:
            if filled[h] / share[h] <= top:
                base += filled[h]
                width += share[h]
        candidate = (base + amount) / width
        # The lowest copy alone always is a candidate; rounding must not say otherwise where there is little to pour.
        if candidate >= top * (1 - 1e-12) and candidate < water:
            water = candidate
    for g in holders:
        part[g] = max(0.0, water * share[g] - filled[g])
        filled[g] += part[g]


@compiled
def power(x: float) -> float:
    """x^16: a smooth stand-in for the maximum."""
    x *= x
    x *= x
    x *= x
    return x * x


@compiled
def even_out(
    load: Floats, held: Bools, slots: Ints, share: Floats, least: Ints, budget: int, tolerance: float, dynamic: bool
) -> int:
    """Lower the fullest shard step by step; returns the new copies made (at most ``budget``)."""
    experts, shards = held.shape
    part, filled = np.zeros((experts, shards)), np.zeros(shards)
    mean = load.sum() / share.sum()
    spent = 0
    sweeps = 4 if dynamic else 0
    level(load, held, share, part, filled, sweeps)
    if mean <= 0:
        return 0
    shortlist, price = np.zeros((SHORTLIST, 5), np.int64), np.zeros(SHORTLIST)
    now = _measure(filled, share, mean)
    while spent < budget:
        fullest = -1
        for g in range(shards):
            if share[g] > 0 and (fullest < 0 or filled[g] / share[g] > filled[fullest] / share[fullest]):
                fullest = g
        if filled[fullest] / share[fullest] <= mean * (1 + tolerance):
            break
        count = _list_changes(
            load, held, slots, share, least, part, filled, mean, fullest, budget - spent, shortlist, price
        )
        best, best_gain = -1, 1e-9
        for c in range(count):
            kind, e, g, h, f = shortlist[c]
            _change(kind, e, g, h, f, held)
            level(load, held, share, part, filled, sweeps)
            gain = (now - _measure(filled, share, mean)) * (0.5 if kind == 0 else 1.0)
            _undo(kind, e, g, h, f, held)
            if gain > best_gain:
                best, best_gain = c, gain
            if best >= 0 and (c >= EXACT or not dynamic):
                break
        if best < 0:
            break
        kind, e, g, h, f = shortlist[best]
        _change(kind, e, g, h, f, held)
        level(load, held, share, part, filled, sweeps)
        now = _measure(filled, share, mean)
        spent += 2 if kind == 0 else 1
    return spent


@compiled
def _measure(filled: Floats, share: Floats, mean: float) -> float:
    total = 0.0
    for g in range(len(share)):
        if share[g] > 0:
            total += share[g] * power(filled[g] / share[g] / mean)
    return total


@compiled
def _change(kind: int, e: int, g: int, h: int, f: int, held: Bools) -> None:
    """0: swap e on g with f on h; 1: e moves from g to h; 2: e is copied to h; 3: e is copied to h in f's place."""
    held[e, h] = True
    if kind == 0:
        held[e, g], held[f, g], held[f, h] = False, True, False
    elif kind == 1:
        held[e, g] = False
    elif kind == 3:
        held[f, h] = False


@compiled
def _undo(kind: int, e: int, g: int, h: int, f: int, held: Bools) -> None:
    held[e, h] = False
    if kind == 0:
        held[e, g], held[f, g], held[f, h] = True, False, True
    elif kind == 1:
        held[e, g] = True
    elif kind == 3:
        held[f, h] = True


@compiled
def _list_changes(
    load: Floats,
    held: Bools,
    slots: Ints,
    share: Floats,
    least: Ints,
    part: Floats,
    filled: Floats,
    mean: float,
    fullest: int,
    budget: int,
    shortlist: Ints,
    price: Floats,
) -> int:
    """Shortlist the changes that promise most per new copy in taking load from the fullest shards; returns how many."""
    experts, shards = held.shape
    count = 0
    top = filled[fullest] / share[fullest]
    used, copies = np.zeros(shards, np.int64), np.zeros(experts, np.int64)
    for e in range(experts):
        for g in range(shards):
            used[g] += held[e, g]
            copies[e] += held[e, g]
    sources = 0
    for g in range(shards):
        # Levelling makes plateaus: shards that share experts and are equally full are equally good to take from.
        if share[g] <= 0 or filled[g] / share[g] < top * (1 - 1e-6) or sources >= 4:
            continue
        sources += 1
        for e in range(experts):
            if not held[e, g] or part[e, g] <= 0:
                continue
            for h in range(shards):
                if held[e, h] or share[h] <= 0 or slots[h] == 0 or filled[h] / share[h] >= top:
                    continue
                old = share[g] * power(top / mean) + share[h] * power(filled[h] / share[h] / mean)
                even = (filled[g] * share[h] - filled[h] * share[g]) / (share[g] + share[h])
                if used[h] < slots[h]:
                    shift = part[e, g]
                    gain = _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                    count = _offer(gain, 1, e, g, h, -1, shortlist, price, count)
                    shift = min(part[e, g], even)
                    gain = _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                    count = _offer(gain, 2, e, g, h, -1, shortlist, price, count)
                    continue
                replaced, replaced_gain, swapped, swapped_gain = -1, 0.0, -1, 0.0
                for f in range(experts):
                    if not held[f, h] or f == e:
                        continue
                    if copies[f] > least[f]:
                        # What f carried here falls to its other copies; priced as if on shards of mean load.
                        shift = min(part[e, g], even + part[f, h] * share[g] / (share[g] + share[h]))
                        gain = _gain(old, filled[g] - shift, filled[h] - part[f, h] + shift, share[g], share[h], mean)
                        gain += 16 * part[f, h] / mean
                        if gain < replaced_gain:
                            replaced, replaced_gain = f, gain
                    if budget >= 2 and not held[f, g] and part[f, h] < part[e, g]:
                        shift = part[e, g] - part[f, h]
                        gain = 0.5 * _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                        if gain < swapped_gain:
                            swapped, swapped_gain = f, gain
                if replaced >= 0:
                    count = _offer(replaced_gain, 3, e, g, h, replaced, shortlist, price, count)
                if swapped >= 0:
                    count = _offer(swapped_gain, 0, e, g, h, swapped, shortlist, price, count)
    return count


@compiled
def _offer(gain: float, kind: int, e: int, g: int, h: int, f: int, shortlist: Ints, price: Floats, count: int) -> int:
    """Insert a change where its price (lower is better) puts it; returns the length of the list."""
    if gain >= 0:
        return count
    n = count
    if n == len(price):
        if gain >= price[n - 1]:
            return count
        n -= 1
    else:
        count += 1
    while n > 0 and price[n - 1] > gain:
        price[n] = price[n - 1]
        shortlist[n] = shortlist[n - 1]
        n -= 1
    price[n] = gain
    shortlist[n, 0], shortlist[n, 1], shortlist[n, 2], shortlist[n, 3], shortlist[n, 4] = kind, e, g, h, f
    return count


@compiled
def _gain(old: float, load_g: float, load_h: float, share_g: float, share_h: float, mean: float) -> float:
    """Change of the measure when two shards' loads become these; negative is better."""
    return share_g * power(load_g / share_g / mean) + share_h * power(load_h / share_h / mean) - old
