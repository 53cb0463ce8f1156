"""Copies of one region's experts onto its shards: how many of each, where, levelled, and surges spread.

A region is a node, a part of a split, or all shards. Array arguments: load float64 ``[experts]`` of the region; held
bool ``[experts, shards]``, changed in place; least int64 ``[experts]`` copies that each must have, 0 for an expert that
is not of the region; copies int64 ``[experts]`` wanted of each; slots int64 ``[shards]``; share float64 ``[shards]``
(what each should carry, in proportion).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.solver.constants import EVEN, SWAPS, UNLIMITED
from moe_placement.solver.level import even_out, power
from moe_placement.solver.problem import even_shares, shares_of_part

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@compiled
def place(
    load: Floats, held: Bools, least: Ints, slots: Ints, share: Floats, budget: int, fresh: bool
) -> int:  # fmt: skip
    """Complete what is held, or place anew if ``fresh``, which fills all slots; returns the new copies made, at most
    ``budget`` beyond those that ``least`` asks for.
    """
    experts, shards = held.shape
    for e in range(experts):
        if least[e] == 0:
            held[e] = False
    had = held.copy()
    most = largest_copy(load, least, slots.sum(), shards) * load.sum() / shards
    wanted = np.minimum(np.maximum(least, _for_load(load, least, most)), shards)
    _trim(wanted, load, least, slots.sum())
    if fresh:
        replicate(load, wanted, slots.sum() - wanted.sum(), shards)
    else:
        for e in range(experts):
            if wanted[e] > held[e].sum():
                wanted[e] = least[e]
    fill(load, held, wanted, slots, share)
    made = (held & ~had).sum()
    return int(made + even_out(load, held, slots, share, least, max(0, budget - made), EVEN, not fresh))


@compiled
def place_in_parts(
    load: Floats, held: Bools, least: Ints, elsewhere: Ints, masks: Ints, part_of: Ints, slots: Ints, share: Floats
) -> int:
    """Place what each part of a split is given on its shards, anew; ``part_of`` int64 ``[shards]``, -1 for no part."""
    made = 0
    parts = part_of.max() + 1
    served = even_shares(masks, parts)
    for part in range(parts):
        part_load, part_least, _ = shares_of_part(load, least, elsewhere, masks, served, part)
        own, shards = np.flatnonzero(part_least), np.flatnonzero(part_of == part)
        inner = np.zeros((len(own), len(shards)), np.bool_)
        made += place(part_load[own], inner, part_least[own], slots[shards], share[shards], UNLIMITED, True)
        for row in range(len(own)):
            for column in range(len(shards)):
                held[own[row], shards[column]] = inner[row, column]
    return made


@compiled
def largest_copy(load: Floats, least: Ints, slots: int, shards: int) -> float:
    """Load of one copy, relative to a shard's fair load, above which its expert is given another copy.

    A shard that holds a heavy copy holds others beside it: as many as there are experts per shard, less one, of which
    each carries what the median expert does, since affinity decides which they are. What these carry is no room for the
    heavy one. It is above 1 where the slots are too few for so many copies.
    """
    mean = load.sum() / shards
    if mean <= 0:
        return 1.0
    relative = np.sort(load[least > 0]) / mean
    beside = max(len(relative) / shards - 1, 0.0)
    most = max(1 - beside * np.median(relative), shards / slots)
    while most < shards and _copies_below(relative, most, shards) > slots:
        most *= 1.05
    return float(most * (1 + 1e-9))


@compiled
def _copies_below(relative: Floats, most: float, shards: int) -> int:
    """Copies at which none carries more than ``most``."""
    total = 0
    for load in relative:
        total += int(min(max(np.ceil(load / most), 1.0), shards))
    return total


@compiled
def _for_load(load: Floats, least: Ints, most: float) -> Ints:
    """Copies at which none carries more than ``most``."""
    copies = np.zeros(len(load), np.int64)
    for e in range(len(load)):
        if least[e] > 0:
            copies[e] = int(np.ceil(load[e] / max(most, 1e-300)))
    return copies


@compiled
def _trim(copies: Ints, load: Floats, least: Ints, room: int) -> None:
    """Give up copies wanted for load, least loaded first, until what is wanted fits or nothing can be given up."""
    excess = copies.sum() - room
    while excess > 0:
        lightest = -1
        for e in range(len(copies)):
            if copies[e] > least[e] and (lightest < 0 or load[e] / copies[e] < load[lightest] / copies[lightest]):
                lightest = e
        if lightest < 0:
            return
        copies[lightest] -= 1
        excess -= 1


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


class Surges(NamedTuple):
    """What may surge on the shards of a region.

    Attributes:
        part: float64 ``[experts]``, load of one copy.
        weight: float64 ``[experts]``, what part of its expert that is.
        shiftable: float64 ``[experts]``, load that one copy can leave to others.
        share: float64 ``[shards]``, what each should carry, in proportion.
        covariance: float64 ``[experts, experts]`` of the experts' loads.
        risk: standard deviations that the load of a shard may rise by.
    """

    part: Floats
    weight: Floats
    shiftable: Floats
    share: Floats
    covariance: Floats
    risk: float


class Shards(NamedTuple):
    """What the shards carry.

    Attributes:
        load, shiftable, variance: float64 ``[shards]``; load, what other copies can take over of it, and its variance.
        with_shard: float64 ``[shards, experts]``, covariance of each shard's load with each expert's.
    """

    load: Floats
    shiftable: Floats
    variance: Floats
    with_shard: Floats


@compiled
def spread_surges(surges: Surges, held: Bools) -> int:
    """Swap copies between shards until a surge of load is least likely to overfill one of them; returns the swaps.

    Experts that are chosen together surge together, so what counts on a shard is the peak its load may rise to: by some
    standard deviations, less what its replicated experts can leave to their other copies meanwhile. Slots and numbers
    of copies stay what they are. Each swap is the best one for the shard with the highest peak.
    """
    experts, shards = held.shape
    share = surges.share
    state, after = _take_stock(surges, held), np.zeros((2, 3))
    mean = state.load.sum() / share.sum() if share.sum() > 0 else 0.0
    made = 0
    while mean > 0 and made < SWAPS:
        worst = 0
        for g in range(1, shards):
            if _peak(surges, state, g) > _peak(surges, state, worst):
                worst = g
        best, best_e, best_f, best_h = -1e-9, -1, -1, -1
        for h in range(shards):
            if h == worst or share[h] <= 0:
                continue
            before = share[worst] * power(_peak(surges, state, worst) / mean)
            before += share[h] * power(_peak(surges, state, h) / mean)
            for e in range(experts):
                if not held[e, worst] or held[e, h]:
                    continue
                for f in range(experts):
                    if not held[f, h] or held[f, worst]:
                        continue
                    _swap(surges, state, e, f, worst, h, after)
                    gain = share[worst] * power(
                        _peak_of(after[0, 0], after[0, 1], after[0, 2], share[worst], surges.risk) / mean
                    )
                    gain += share[h] * power(
                        _peak_of(after[1, 0], after[1, 1], after[1, 2], share[h], surges.risk) / mean
                    )
                    if gain - before < best:
                        best, best_e, best_f, best_h = gain - before, e, f, h
        if best_e < 0:
            break
        _swap(surges, state, best_e, best_f, worst, best_h, after)
        for row, g in ((0, worst), (1, best_h)):
            state.load[g], state.shiftable[g], state.variance[g] = after[row]
        for x in range(experts):
            step = surges.weight[best_f] * surges.covariance[best_f, x]
            step -= surges.weight[best_e] * surges.covariance[best_e, x]
            state.with_shard[worst, x] += step
            state.with_shard[best_h, x] -= step
        held[best_e, worst], held[best_f, best_h] = False, False
        held[best_e, best_h], held[best_f, worst] = True, True
        made += 1
    return made


@compiled
def _take_stock(surges: Surges, held: Bools) -> Shards:
    experts, shards = held.shape
    state = Shards(np.zeros(shards), np.zeros(shards), np.zeros(shards), np.zeros((shards, experts)))
    for g in range(shards):
        for e in range(experts):
            if held[e, g]:
                state.load[g] += surges.part[e]
                state.shiftable[g] += surges.shiftable[e]
                state.with_shard[g] += surges.weight[e] * surges.covariance[e]
        for e in range(experts):
            if held[e, g]:
                state.variance[g] += surges.weight[e] * state.with_shard[g, e]
    return state


@compiled
def _swap(surges: Surges, state: Shards, e: int, f: int, g: int, h: int, after: Floats) -> None:
    """Write to ``after`` float64 ``[2, 3]`` load, shiftable load and variance of g and h once e on g and f on h have
    changed places.
    """
    part, shiftable, covariance = surges.part, surges.shiftable, surges.covariance
    a, b = surges.weight[e], surges.weight[f]
    cross = a * a * covariance[e, e] + b * b * covariance[f, f] - 2 * a * b * covariance[e, f]
    after[0, 0] = state.load[g] + part[f] - part[e]
    after[1, 0] = state.load[h] + part[e] - part[f]
    after[0, 1] = state.shiftable[g] + shiftable[f] - shiftable[e]
    after[1, 1] = state.shiftable[h] + shiftable[e] - shiftable[f]
    after[0, 2] = state.variance[g] + 2 * (b * state.with_shard[g, f] - a * state.with_shard[g, e]) + cross
    after[1, 2] = state.variance[h] + 2 * (a * state.with_shard[h, e] - b * state.with_shard[h, f]) + cross


@compiled
def _peak(surges: Surges, state: Shards, g: int) -> float:
    return _peak_of(state.load[g], state.shiftable[g], state.variance[g], surges.share[g], surges.risk)


@compiled
def _peak_of(load: float, shiftable: float, variance: float, share: float, risk: float) -> float:
    """Relative load that a shard may rise to; 0 for a shard without a share."""
    if share <= 0:
        return 0.0
    return float((load + max(0.0, risk * np.sqrt(max(variance, 0.0)) - shiftable)) / share)
