"""Even out the shards of one region (a node, or everything where only loads are known).

``even_out`` takes load from the fullest shard, one change at a time: a swap of two copies, a copy in an empty slot, or
a copy in the place of another's copy. Between changes the loads of replicated experts are levelled over their copies,
as least-loaded dispatch levels them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.solver.constants import LEVELLED, SHORTLIST, SOURCES, SWEEPS

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SWAP, MOVE, COPY, REPLACE = range(4)
"""Kinds of changes, of e on shard g, h, and f on h: they change places, e moves to h, e is copied to h, or is copied to
h in f's place. A change is written as (kind, e, g, h, f)."""


class Copies(NamedTuple):
    """Who holds what, and how much load each copy has; all changed in place.

    Attributes:
        load: float64 ``[experts]`` of the region.
        share: float64 ``[shards]``, what each should carry, in proportion.
        held: bool ``[experts, shards]``.
        holders: int64 ``[experts, shards]``, in row e first the ``copies[e]`` shards that hold e, in ascending order.
        copies: int64 ``[experts]``.
        part: float64 ``[experts, shards]``, load of each copy.
        filled: float64 ``[shards]``, load of each shard.
    """

    load: Floats
    share: Floats
    held: Bools
    holders: Ints
    copies: Ints
    part: Floats
    filled: Floats


@compiled
def copies_in(load: Floats, share: Floats, held: Bools) -> Copies:
    """List the holders of each expert; loads are not yet known."""
    experts, shards = held.shape
    holders, copies = np.empty((experts, shards), np.int64), np.zeros(experts, np.int64)
    for e in range(experts):
        for g in range(shards):
            if held[e, g]:
                holders[e, copies[e]] = g
                copies[e] += 1
    return Copies(load, share, held, holders, copies, np.zeros((experts, shards)), np.zeros(shards))


@compiled
def level(state: Copies, sweeps: int) -> None:
    """Spread each replicated expert over its copies so that the shards' relative loads are as even as they can be.

    Block coordinate descent on the sum of share x (load / share)^2, which has the same minimiser as the lexicographic
    maximum. ``part`` and ``filled`` are computed anew; entries of ``part`` where nothing is held are left as they are.
    """
    load, holders, copies, part, filled = state.load, state.holders, state.copies, state.part, state.filled
    filled[:] = 0.0
    for e in range(len(load)):
        for g in holders[e, : copies[e]]:
            part[e, g] = load[e] / copies[e]
            filled[g] += part[e, g]
    for _ in range(sweeps):
        for e in range(len(load)):
            if copies[e] > 1:
                _water_fill(load[e], holders[e, : copies[e]], state.share, part[e], filled)


@compiled
def _water_fill(amount: float, holders: Ints, share: Floats, part: Floats, filled: Floats) -> None:
    """Spread one expert's load over its copies, given the load of all others; ``part`` is the expert's row."""
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
        # The lowest copy alone always is a candidate; rounding must not say otherwise where there is little to spread.
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
    """Lower the fullest shard step by step; returns the new copies made (at most ``budget``).

    ``held`` is changed in place; slots int64 ``[shards]``; least int64 ``[experts]`` copies never given up. Shards less
    than ``tolerance`` fuller than the mean are even enough. ``dynamic`` counts on dispatch that levels loads.
    """
    state = copies_in(load, share, held)
    mean = load.sum() / share.sum()
    spent = 0
    sweeps = SWEEPS if dynamic else 0
    level(state, sweeps)
    if mean <= 0:
        return 0
    now = _measure(state, mean)
    while spent < budget:
        fullest = _fullest(state)
        if state.filled[fullest] / share[fullest] <= mean * (1 + tolerance):
            break
        changes = _list_changes(state, slots, least, mean, fullest, budget - spent)
        best, best_gain = -1, 1e-9
        for c in range(len(changes)):
            _make(changes[c], state)
            level(state, sweeps)
            gain = (now - _measure(state, mean)) * (0.5 if changes[c, 0] == SWAP else 1.0)
            _undo(changes[c], state)
            if gain > best_gain:
                best, best_gain = c, gain
            if best >= 0 and (c >= LEVELLED or not dynamic):
                break
        if best < 0:
            break
        _make(changes[best], state)
        for changed in (changes[best, 1], changes[best, 4]):
            if changed >= 0:
                held[changed] = False
                for shard in state.holders[changed, : state.copies[changed]]:
                    held[changed, shard] = True
        level(state, sweeps)
        now = _measure(state, mean)
        spent += 2 if changes[best, 0] == SWAP else 1
    return spent


@compiled
def _fullest(state: Copies) -> int:
    fullest = -1
    for g in range(len(state.share)):
        if state.share[g] <= 0:
            continue
        if fullest < 0 or state.filled[g] / state.share[g] > state.filled[fullest] / state.share[fullest]:
            fullest = g
    return fullest


@compiled
def _measure(state: Copies, mean: float) -> float:
    total = 0.0
    for g in range(len(state.share)):
        if state.share[g] > 0:
            total += state.share[g] * power(state.filled[g] / state.share[g] / mean)
    return total


@compiled
def _make(change: Ints, state: Copies) -> None:
    kind, e, g, h, f = change
    _put(state, e, h)
    if kind in (SWAP, MOVE):
        _take(state, e, g)
    if kind in (SWAP, REPLACE):
        _take(state, f, h)
    if kind == SWAP:
        _put(state, f, g)


@compiled
def _undo(change: Ints, state: Copies) -> None:
    kind, e, g, h, f = change
    if kind == SWAP:
        _take(state, f, g)
    if kind in (SWAP, REPLACE):
        _put(state, f, h)
    if kind in (SWAP, MOVE):
        _put(state, e, g)
    _take(state, e, h)


@compiled
def _put(state: Copies, e: int, g: int) -> None:
    """Add shard g to those that hold e."""
    holders, copies = state.holders, state.copies
    position = copies[e]
    while position > 0 and holders[e, position - 1] > g:
        holders[e, position] = holders[e, position - 1]
        position -= 1
    holders[e, position] = g
    copies[e] += 1


@compiled
def _take(state: Copies, e: int, g: int) -> None:
    """Remove shard g from those that hold e."""
    holders, copies = state.holders, state.copies
    copies[e] -= 1
    position = 0
    while holders[e, position] != g:
        position += 1
    for i in range(position, copies[e]):
        holders[e, i] = holders[e, i + 1]


@compiled
def _list_changes(state: Copies, slots: Ints, least: Ints, mean: float, fullest: int, budget: int) -> Ints:
    """int64 ``[changes, 5]``: those that promise most per new copy in taking load from the fullest shards first."""
    held, share, part, filled, copies = state.held, state.share, state.part, state.filled, state.copies
    experts, shards = held.shape
    top = filled[fullest] / share[fullest]
    used, residents = np.zeros(shards, np.int64), np.empty((shards, experts), np.int64)
    for e in range(experts):
        for g in state.holders[e, : copies[e]]:
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
                    count = _offer(gain, MOVE, e, g, h, -1, changes, price, count)
                    shift = min(part[e, g], even)
                    gain = _gain(old, filled[g] - shift, filled[h] + shift, share[g], share[h], mean)
                    count = _offer(gain, COPY, e, g, h, -1, changes, price, count)
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
                    count = _offer(replaced_gain, REPLACE, e, g, h, replaced, changes, price, count)
                if swapped >= 0:
                    count = _offer(swapped_gain, SWAP, e, g, h, swapped, changes, price, count)
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
