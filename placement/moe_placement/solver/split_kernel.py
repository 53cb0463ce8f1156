"""Split experts among at most 4 parts: tabu search on the exact cost of sampled tokens, copies included.

Moves keep slots within capacity, so most are pairs: two experts swap parts, or one takes the slot that a copy of
another gives up. The pairs that look best are priced exactly, interaction and risk included, and the best of them is
taken, even if it is for the worse; experts just moved rest for a while (tabu), and the best state seen is returned.

Array arguments, beyond those of ``price_kernel``: load float64 [experts], summing to 1; covariance float64 [experts,
experts] of these loads; pull float64 [parts, experts], covariance of each part's load with each expert's; square
float64 [parts], variance of each part's load; relief float64 [parts], load that other copies can take over; strain
float64 [experts, parts], price of the risk that a unit more of an expert's load in a part brings; least int64 [experts]
fewest parts; slots_of int64 [experts, parts + 1] slots in each part by number of parts; capacity, share per part.
"""

from __future__ import annotations

import numpy as np

from moe_placement.compiled import compiled, interpreter_is_late
from moe_placement.solver.moves_kernel import (
    EXACT,
    TOP,
    changes,
    collect,
    overload,
    pair_up,
    part_in,
    strained,
    wishes,
)
from moe_placement.solver.price_kernel import Floats, Ints, Smalls, give_mask, interaction, popcount, price_alternatives

YIELD = 0.5
"""Part of a replicated expert's load that its other copies are counted on to take when this part's load surges."""


@compiled
def refine(
    sets: Smalls,
    weight: Floats,
    first: Ints,
    members: Smalls,
    masks: Ints,
    load: Floats,
    covariance: Floats,
    least: Ints,
    slots_of: Ints,
    capacity: Ints,
    share: Floats,
    hits: Ints,
    costs: Floats,
    slack: float,
    rigour: float,
    risk: float,
    patience: int,
    seed: int,
    origin: Ints,
    limit: int,
    wide: bool,
    deadline: float,
) -> float:
    """Improve ``masks`` in place until ``patience`` steps brought nothing; returns the value of the best state.

    The value is cost + rigour x overload + risk x deviation. At most ``limit`` bits may be set that ``origin`` does not
    have: copies that would have to be moved there. ``wide`` tries every pair of moves, not only those that make up for
    each other's slots.
    """
    experts, parts = len(masks), len(capacity)
    alternatives = np.zeros((experts, len(hits)))
    cost = price_alternatives(sets, weight, masks, hits, costs, alternatives)
    used, loads = np.zeros(parts, np.int64), np.zeros(parts)
    pull, square = np.zeros((parts, experts)), np.zeros(parts)
    strain = np.zeros((experts if risk > 0 else 0, parts))
    relief = np.zeros(parts)
    fresh_bits = _take_stock(masks, load, slots_of, origin, used, loads)
    if risk > 0:
        for e in range(experts):
            _shift(e, 0, masks[e], covariance, pull, square)
            _ease(load[e], 0, masks[e], relief)
    value = cost + rigour * overload(loads, share, slack) + risk * _deviation(square, relief, share)
    best, best_masks = value, masks.copy()
    directions = parts * parts + 2 * parts
    count, resting = np.zeros(directions, np.int64), np.zeros(experts, np.int64)
    price, bend = np.zeros((directions, TOP)), np.zeros((directions, TOP))
    expert = np.zeros((directions, TOP), np.int64)
    target, fresh = np.zeros((directions, TOP), np.int64), np.zeros((directions, TOP), np.int64)
    load_change, slot_change = np.zeros((directions, TOP, parts)), np.zeros((directions, TOP, parts), np.int64)
    pick_price, pick = np.zeros(EXACT), np.zeros((EXACT, 4), np.int64)
    before = np.zeros(sets.shape[1], np.int64)
    idle = step = 0
    random = seed & 0x7FFFFFFF
    while idle < patience and not interpreter_is_late(deadline):
        step += 1
        idle += 1
        if risk > 0:
            _strain(pull, square, relief, share, risk, strain)
        collect(masks, load, least, alternatives, resting, step, parts, wishes(loads, share, rigour), strain, count,
                 price, expert, target)  # fmt: skip
        for d in range(directions):
            for i in range(count[d]):
                e = expert[d, i]
                changes(e, masks[e], target[d, i], load, slots_of, load_change[d, i], slot_change[d, i])
                fresh[d, i] = popcount(target[d, i] & ~origin[e]) - popcount(masks[e] & ~origin[e])
                bend[d, i] = strained(e, masks[e], target[d, i], strain)
                price[d, i] = alternatives[e, target[d, i]] - alternatives[e, masks[e]] + bend[d, i]
        picks = pair_up(count, price, expert, fresh, load_change, slot_change, used, capacity, loads, share, slack,
                         rigour, limit - fresh_bits, wide, pick_price, pick)  # fmt: skip
        chosen, change = -1, np.inf
        for c in range(picks):
            a, i, b, j = pick[c]
            exact = pick_price[c]
            if b >= 0:
                exact += interaction(expert[a, i], target[a, i], expert[b, j], target[b, j], sets, weight, first,
                                     members, masks, hits, costs)  # fmt: skip
            if risk > 0:
                exact -= bend[a, i] + (bend[b, j] if b >= 0 else 0.0)
                exact += risk * _deviation_change(
                    expert[a, i], target[a, i], expert[b, j] if b >= 0 else -1, target[b, j] if b >= 0 else 0, masks,
                    load, covariance, pull, square, relief, share,
                )  # fmt: skip
            if exact < change:
                chosen, change = c, exact
        if chosen < 0:
            continue
        value += change
        a, i, b, j = pick[chosen]
        for d, n in ((a, i), (b, j)):
            if d < 0:
                continue
            e = expert[d, n]
            loads += load_change[d, n]
            used += slot_change[d, n]
            fresh_bits += fresh[d, n]
            if risk > 0:
                _shift(e, masks[e], target[d, n], covariance, pull, square)
                _ease(load[e], masks[e], target[d, n], relief)
            random = (random * 1103515245 + 12345) & 0x7FFFFFFF  # not NumPy's: interpreted, that one is everybody's
            resting[e] = step + 4 + (random >> 16) % 8
            give_mask(e, target[d, n], sets, weight, first, members, masks, hits, costs, alternatives, before)
        if value < best - 1e-9:
            best, idle = value, 0
            best_masks[:] = masks
    masks[:] = best_masks
    return best


@compiled
def _take_stock(masks: Ints, load: Floats, slots_of: Ints, origin: Ints, used: Ints, loads: Floats) -> int:
    """Fill what the parts hold; returns the bits that ``origin`` does not have."""
    fresh = 0
    for e in range(len(masks)):
        copies = popcount(masks[e])
        fresh += popcount(masks[e] & ~origin[e])
        for p in range(len(used)):
            if (masks[e] >> p) & 1:
                used[p] += slots_of[e, copies]
                loads[p] += load[e] / copies
    return fresh


@compiled
def _shift(e: int, old: int, new: int, covariance: Floats, pull: Floats, square: Floats) -> None:
    """Move an expert's load from the parts of one mask to those of another."""
    for p in range(len(square)):
        step = part_in(new, p) - part_in(old, p)
        if step != 0.0:
            square[p] += 2 * step * pull[p, e] + step * step * covariance[e, e]
            for f in range(pull.shape[1]):
                pull[p, f] += step * covariance[e, f]


@compiled
def _strain(pull: Floats, square: Floats, relief: Floats, share: Floats, risk: float, strain: Floats) -> None:
    """Write what one unit more of each expert's load in each part adds to the price of risk, to first order."""
    for p in range(len(share)):
        deviation = np.sqrt(max(square[p], 0.0))
        slope = risk / (deviation * share[p]) if share[p] > 0 and deviation > max(relief[p], 0.0) else 0.0
        for e in range(len(strain)):
            strain[e, p] = slope * pull[p, e]


@compiled
def _ease(load: float, old: int, new: int, relief: Floats) -> None:
    """Move what an expert's other copies can take over from one mask to another."""
    for p in range(len(relief)):
        relief[p] += load * (_yielding(new, p) - _yielding(old, p))


@compiled
def _yielding(mask: int, p: int) -> float:
    """What part of an expert's load its other copies can take over from part p."""
    return YIELD * part_in(mask, p) if popcount(mask) > 1 else 0.0


@compiled
def _deviation(square: Floats, relief: Floats, share: Floats) -> float:
    """Sum over parts of the standard deviation of their relative load, sqrt(1' Sigma 1), less what copies relieve."""
    total = 0.0
    for p in range(len(square)):
        if share[p] > 0:
            total += max(np.sqrt(max(square[p], 0.0)) - relief[p], 0.0) / share[p]
    return total


@compiled
def _deviation_change(
    e: int, e_mask: int, f: int, f_mask: int, masks: Ints, load: Floats, covariance: Floats, pull: Floats,
    square: Floats, relief: Floats, share: Floats,
) -> float:  # fmt: skip
    """How ``_deviation`` changes with one or two new masks (f is -1 for one)."""
    total = 0.0
    for p in range(len(square)):
        if share[p] <= 0:
            continue
        step = part_in(e_mask, p) - part_in(masks[e], p)
        new = square[p] + 2 * step * pull[p, e] + step * step * covariance[e, e]
        eased = relief[p] + load[e] * (_yielding(e_mask, p) - _yielding(masks[e], p))
        if f >= 0:
            eased += load[f] * (_yielding(f_mask, p) - _yielding(masks[f], p))
            other = part_in(f_mask, p) - part_in(masks[f], p)
            new += 2 * other * pull[p, f] + other * other * covariance[f, f] + 2 * step * other * covariance[e, f]
        before = max(np.sqrt(max(square[p], 0.0)) - relief[p], 0.0)
        total += (max(np.sqrt(max(new, 0.0)) - eased, 0.0) - before) / share[p]
    return total
