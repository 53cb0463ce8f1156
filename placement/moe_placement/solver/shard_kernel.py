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

from moe_placement.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
SHORTLIST = 300
"""Changes that are remembered, by what they promise."""
EXACT = 24
"""Of these, how many are computed exactly, levelling included, before the best is made; more only if none gains."""
SOURCES = 4
"""Shards that load is taken from, if so many are equally full."""


@compiled
def level(load: Floats, held: Bools, share: Floats, part: Floats, filled: Floats, sweeps: int) -> None:
    """Spread each replicated expert over its copies so that the shards' relative loads are as even as they can be.

    Block coordinate descent on the sum of share x (load / share)^2, which has the same minimiser as the lexicographic
    maximum. ``part`` float64 [experts, shards] and ``filled`` [shards] are computed anew.
    """
    part[:] = 0.0
    holders, copies = _list_holders(held)
    _level(load, holders, copies, share, part, filled, sweeps)


@compiled
def _list_holders(held: Bools) -> tuple[Ints, Ints]:
    """(int64 ``[experts, shards]``, in row e first the ``copies[e]`` that hold e, in ascending order; int64
    ``[experts]``).
    """
    experts, shards = held.shape
    holders, copies = np.empty((experts, shards), np.int64), np.zeros(experts, np.int64)
    for e in range(experts):
        for g in range(shards):
            if held[e, g]:
                holders[e, copies[e]] = g
                copies[e] += 1
    return holders, copies


@compiled
def _level(
    load: Floats, holders: Ints, copies: Ints, share: Floats, part: Floats, filled: Floats, sweeps: int
) -> None:  # fmt: skip
    """See ``level``; entries of ``part`` where nothing is held are left as they are."""
    experts = len(load)
    filled[:] = 0.0
    for e in range(experts):
        for g in holders[e, : copies[e]]:
            part[e, g] = load[e] / copies[e]
            filled[g] += part[e, g]
    for _ in range(sweeps):
        for e in range(experts):
            if copies[e] > 1:
                _pour(load[e], holders[e, : copies[e]], share, part[e], filled)


@compiled
def _put(holders: Ints, copies: Ints, e: int, g: int) -> None:
    """Add shard g to those that hold e."""
    position = copies[e]
    while position > 0 and holders[e, position - 1] > g:
        holders[e, position] = holders[e, position - 1]
        position -= 1
    holders[e, position] = g
    copies[e] += 1


@compiled
def _take(holders: Ints, copies: Ints, e: int, g: int) -> None:
    """Remove shard g from those that hold e."""
    copies[e] -= 1
    position = 0
    while holders[e, position] != g:
        position += 1
    for i in range(position, copies[e]):
        holders[e, i] = holders[e, i + 1]


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
    holders, copies = _list_holders(held)
    mean = load.sum() / share.sum()
    spent = 0
    sweeps = 4 if dynamic else 0
    _level(load, holders, copies, share, part, filled, sweeps)
    if mean <= 0:
        return 0
    now = _measure(filled, share, mean)
    while spent < budget:
        fullest = -1
        for g in range(shards):
            if share[g] > 0 and (fullest < 0 or filled[g] / share[g] > filled[fullest] / share[fullest]):
                fullest = g
        if filled[fullest] / share[fullest] <= mean * (1 + tolerance):
            break
        shortlist = _list_changes(
            held, holders, copies, slots, share, least, part, filled, mean, fullest, budget - spent
        )
        best, best_gain = -1, 1e-9
        for c in range(len(shortlist)):
            kind, e, g, h, f = shortlist[c]
            _change(kind, e, g, h, f, holders, copies)
            _level(load, holders, copies, share, part, filled, sweeps)
            gain = (now - _measure(filled, share, mean)) * (0.5 if kind == 0 else 1.0)
            _undo(kind, e, g, h, f, holders, copies)
            if gain > best_gain:
                best, best_gain = c, gain
            if best >= 0 and (c >= EXACT or not dynamic):
                break
        if best < 0:
            break
        kind, e, g, h, f = shortlist[best]
        _change(kind, e, g, h, f, holders, copies)
        for changed in (e, f):
            if changed >= 0:
                held[changed] = False
                for shard in holders[changed, : copies[changed]]:
                    held[changed, shard] = True
        _level(load, holders, copies, share, part, filled, sweeps)
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
def _change(kind: int, e: int, g: int, h: int, f: int, holders: Ints, copies: Ints) -> None:
    """0: swap e on g with f on h; 1: e moves from g to h; 2: e is copied to h; 3: e is copied to h in f's place."""
    _put(holders, copies, e, h)
    if kind in (0, 1):
        _take(holders, copies, e, g)
    if kind in (0, 3):
        _take(holders, copies, f, h)
    if kind == 0:
        _put(holders, copies, f, g)


@compiled
def _undo(kind: int, e: int, g: int, h: int, f: int, holders: Ints, copies: Ints) -> None:
    if kind == 0:
        _take(holders, copies, f, g)
    if kind in (0, 3):
        _put(holders, copies, f, h)
    if kind in (0, 1):
        _put(holders, copies, e, g)
    _take(holders, copies, e, h)


@compiled
def _list_changes(
    held: Bools, holders: Ints, copies: Ints, slots: Ints, share: Floats, least: Ints, part: Floats, filled: Floats,
    mean: float, fullest: int, budget: int,
) -> Ints:  # fmt: skip
    """int64 ``[changes, 5]``: those that promise most per new copy in taking load from the fullest shards, best first;
    each as ``_change`` takes it: kind, e, g, h, f.
    """
    experts, shards = held.shape
    top = filled[fullest] / share[fullest]
    used, residents = np.zeros(shards, np.int64), np.empty((shards, experts), np.int64)
    for e in range(experts):
        for g in holders[e, : copies[e]]:
            residents[g, used[g]] = e
            used[g] += 1
    sources, count, most = 0, 0, 2 * SOURCES * used.max() * shards
    changes, price = np.empty((most, 5), np.int64), np.empty(most)
    for g in range(shards):
        # Levelling makes plateaus: shards that share experts and are equally full are equally good to take from.
        if share[g] <= 0 or filled[g] / share[g] < top * (1 - 1e-6) or sources >= SOURCES:
            continue
        sources += 1
        for e in residents[g, : used[g]]:
            if part[e, g] <= 0:
                continue
            for h in range(shards):
                if held[e, h] or share[h] <= 0 or slots[h] == 0 or filled[h] / share[h] >= top:
                    continue
                old = share[g] * power(top / mean) + share[h] * power(filled[h] / share[h] / mean)
                even = (filled[g] * share[h] - filled[h] * share[g]) / (share[g] + share[h])
                if used[h] < slots[h]:
                    shift = part[e, g]
                    gain = _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                    count = _offer(gain, 1, e, g, h, -1, changes, price, count)
                    shift = min(part[e, g], even)
                    gain = _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                    count = _offer(gain, 2, e, g, h, -1, changes, price, count)
                    continue
                replaced, replaced_gain, swapped, swapped_gain = -1, 0.0, -1, 0.0
                for f in residents[h, : used[h]]:
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
                    count = _offer(replaced_gain, 3, e, g, h, replaced, changes, price, count)
                if swapped >= 0:
                    count = _offer(swapped_gain, 0, e, g, h, swapped, changes, price, count)
    return changes[np.argsort(price[:count], kind="mergesort")[:SHORTLIST]]


@compiled
def _offer(gain: float, kind: int, e: int, g: int, h: int, f: int, changes: Ints, price: Floats, count: int) -> int:
    """Write a change down if it promises anything; returns how many there are."""
    if gain >= 0:
        return count
    changes[count, 0], changes[count, 1], changes[count, 2], changes[count, 3], changes[count, 4] = kind, e, g, h, f
    price[count] = gain
    return count + 1


@compiled
def _gain(old: float, load_g: float, load_h: float, share_g: float, share_h: float, mean: float) -> float:
    """Change of the measure when two shards' loads become these; negative is better."""
    return share_g * power(load_g / share_g / mean) + share_h * power(load_h / share_h / mean) - old
