"""Split experts among at most 4 parts: tabu search on the exact cost of sampled tokens, copies included.

Moves keep slots within capacity, so most are pairs: two experts swap parts, or one takes the slot that a copy of
another gives up. The pairs that look best are priced exactly, interaction and risk included, and the best of them is
taken, even if it is for the worse; experts just moved rest for a while (tabu), and the best state seen is returned.

Array arguments, beyond those of ``price_kernel``: load float64 [experts], summing to 1; fluctuation float64 [experts,
windows], how each load departed from its mean; least int64 [experts] fewest parts; slots_of int64 [experts, parts + 1]
slots in each part by number of parts; capacity, share per part.
"""

from __future__ import annotations

import numpy as np

from moe_placement.solve.compiled import compiled
from moe_placement.solve.moves_kernel import EXACT, NEVER, TOP, changes, collect, overload, pair_up, wishes
from moe_placement.solve.price_kernel import Floats, Ints, give_mask, interaction, popcount, price_alternatives


@compiled
def refine(
    sets: Ints,
    weight: Floats,
    inside: Ints,
    first: Ints,
    members: Ints,
    masks: Ints,
    load: Floats,
    fluctuation: Floats,
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
) -> float:
    """Improve ``masks`` in place until ``patience`` steps brought nothing; returns the value of the best state.

    The value is cost + rigour x overload + risk x deviation. At most ``limit`` bits may be set that ``origin`` does not
    have: copies that would have to be moved there. ``wide`` tries every pair of moves, not only those that make up for
    each other's slots.
    """
    np.random.seed(seed)
    experts, parts = len(masks), len(capacity)
    alternatives = np.zeros((experts, len(hits)))
    cost = price_alternatives(sets, weight, inside, masks, hits, costs, alternatives)
    used, loads, spread = np.zeros(parts, np.int64), np.zeros(parts), np.zeros((parts, fluctuation.shape[1]))
    fresh_bits = _take_stock(masks, load, fluctuation, slots_of, origin, used, loads, spread)
    value = cost + rigour * overload(loads, share, slack) + risk * _deviation(spread, share)
    best, best_masks = value, masks.copy()
    directions = parts * parts + 2 * parts
    count, resting = np.zeros(directions, np.int64), np.zeros(experts, np.int64)
    price, expert = np.zeros((directions, TOP)), np.zeros((directions, TOP), np.int64)
    target, fresh = np.zeros((directions, TOP), np.int64), np.zeros((directions, TOP), np.int64)
    load_change, slot_change = np.zeros((directions, TOP, parts)), np.zeros((directions, TOP, parts), np.int64)
    pick_price, pick = np.zeros(EXACT), np.zeros((EXACT, 4), np.int64)
    work = np.zeros((4, sets.shape[1]), np.int64)
    idle = step = 0
    while idle < patience:
        step += 1
        idle += 1
        collect(masks, load, least, alternatives, resting, step, parts, wishes(loads, share, rigour), count, price,
                 expert, target)  # fmt: skip
        for d in range(directions):
            for i in range(count[d]):
                e = expert[d, i]
                changes(e, masks[e], target[d, i], load, slots_of, load_change[d, i], slot_change[d, i])
                fresh[d, i] = popcount(target[d, i] & ~origin[e]) - popcount(masks[e] & ~origin[e])
                price[d, i] = alternatives[e, target[d, i]] - alternatives[e, masks[e]]
                if resting[e] > step:
                    price[d, i] += NEVER
        picks = pair_up(count, price, expert, fresh, load_change, slot_change, used, capacity, loads, share, slack,
                         rigour, limit - fresh_bits, wide, pick_price, pick)  # fmt: skip
        chosen, change = -1, NEVER / 2
        for c in range(picks):
            a, i, b, j = pick[c]
            exact = pick_price[c]
            if b >= 0:
                exact += interaction(expert[a, i], target[a, i], expert[b, j], target[b, j], sets, weight, inside,
                                     first, members, masks, hits, costs)  # fmt: skip
            if risk > 0:
                exact += risk * _deviation_change(
                    expert[a, i], target[a, i], expert[b, j] if b >= 0 else -1, target[b, j] if b >= 0 else 0, masks,
                    fluctuation, spread, share,
                )  # fmt: skip
            if exact < change:
                chosen, change = c, exact
        if picks == 0:
            break
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
            _shift(e, masks[e], target[d, n], fluctuation, spread)
            resting[e] = step + 4 + np.random.randint(0, 8)
            give_mask(e, target[d, n], sets, weight, inside, first, members, masks, hits, costs, alternatives, work)
        if value < best - 1e-9:
            best, idle = value, 0
            best_masks[:] = masks
    masks[:] = best_masks
    return best


@compiled
def _take_stock(
    masks: Ints,
    load: Floats,
    fluctuation: Floats,
    slots_of: Ints,
    origin: Ints,
    used: Ints,
    loads: Floats,
    spread: Floats,
) -> int:
    """Fill what the parts hold; returns the bits that ``origin`` does not have."""
    fresh = 0
    for e in range(len(masks)):
        copies = popcount(masks[e])
        fresh += popcount(masks[e] & ~origin[e])
        _shift(e, 0, masks[e], fluctuation, spread)
        for p in range(len(used)):
            if (masks[e] >> p) & 1:
                used[p] += slots_of[e, copies]
                loads[p] += load[e] / copies
    return fresh


@compiled
def _shift(e: int, old: int, new: int, fluctuation: Floats, spread: Floats) -> None:
    """Move an expert's fluctuation from the parts of one mask to those of another."""
    for p in range(len(spread)):
        part = _part_in(new, p) - _part_in(old, p)
        if part != 0.0:
            for w in range(spread.shape[1]):
                spread[p, w] += part * fluctuation[e, w]


@compiled
def _part_in(mask: int, p: int) -> float:
    """The part of its load that an expert has in part p."""
    return 1.0 / popcount(mask) if (mask >> p) & 1 else 0.0


@compiled
def _deviation(spread: Floats, share: Floats) -> float:
    """Sum over parts of the standard deviation of their relative load between windows: sqrt(1' Sigma 1) of each."""
    total = 0.0
    for p in range(len(spread)):
        square = 0.0
        for w in range(spread.shape[1]):
            square += spread[p, w] * spread[p, w]
        if share[p] > 0 and spread.shape[1] > 1:
            total += np.sqrt(square / (spread.shape[1] - 1)) / share[p]
    return total


@compiled
def _deviation_change(
    e: int, e_mask: int, f: int, f_mask: int, masks: Ints, fluctuation: Floats, spread: Floats, share: Floats
) -> float:
    """How ``_deviation`` changes with one or two new masks; ``spread`` is changed and changed back."""
    before = _deviation(spread, share)
    _shift(e, masks[e], e_mask, fluctuation, spread)
    if f >= 0:
        _shift(f, masks[f], f_mask, fluctuation, spread)
    after = _deviation(spread, share)
    _shift(e, e_mask, masks[e], fluctuation, spread)
    if f >= 0:
        _shift(f, f_mask, masks[f], fluctuation, spread)
    return after - before
