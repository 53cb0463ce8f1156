"""Moves between parts: which are cheap, which pairs fit, and what they do to slots and loads.

A move gives one expert a new mask. Moves are listed by direction: from p to q (p * parts + q), one more copy on q, one
copy less on p; [directions, TOP] arrays hold the cheapest of each. Other array arguments as in ``split_kernel``.
"""

from __future__ import annotations

import numpy as np

from moe_placement.compiled import compiled
from moe_placement.solver.price_kernel import Floats, Ints, popcount

TOP = 8
"""Moves remembered per direction."""
EXACT = 6
"""Pairs priced exactly per step."""


@compiled
def overload(load: Floats, share: Floats, slack: float) -> float:
    """Sum over parts of relative load above 1 + slack."""
    total = 0.0
    for p in range(len(share)):
        if share[p] > 0:
            total += max(0.0, load[p] / share[p] - 1.0 - slack)
        else:
            total += load[p] * 1e3
    return total


@compiled
def changes(e: int, old: int, new: int, load: Floats, slots_of: Ints, load_change: Floats, slot_change: Ints) -> None:
    """Write how parts' loads and slots change when e's mask does."""
    c_old, c_new = popcount(old), popcount(new)
    for p in range(len(load_change)):
        had, has = (old >> p) & 1, (new >> p) & 1
        load_change[p] = load[e] * (has / c_new - had / c_old)
        slot_change[p] = has * slots_of[e, c_new] - had * slots_of[e, c_old]


@compiled
def collect(
    masks: Ints,
    load: Floats,
    least: Ints,
    alternatives: Floats,
    resting: Ints,
    step: int,
    parts: int,
    rest_wanted: Floats,
    strain: Floats,
    count: Ints,
    cost: Floats,
    expert: Ints,
    target: Ints,
) -> None:
    """The ``TOP`` cheapest moves of each direction, experts at rest left out."""
    count[:] = 0
    moves, risky = parts * parts, len(strain) > 0
    most = np.full(len(count), np.inf)  # what is not cheaper is not among the cheapest
    for e in range(len(masks)):
        old = masks[e]
        if old == 0 or resting[e] > step:
            continue
        copies, now = popcount(old), alternatives[e, old]
        share, more = 1.0 / copies, 1.0 / (copies + 1)
        for q in range(parts):
            if (old >> q) & 1:
                if copies > least[e]:
                    new = old & ~(1 << q)
                    price = alternatives[e, new] - now
                    if risky:
                        price += _strained(old, new, share, 1.0 / max(copies - 1, 1), strain[e])
                    if price < most[moves + parts + q]:
                        _remember(moves + parts + q, price, e, new, count, cost, expert, target, most)
                continue
            new = old | (1 << q)
            price = alternatives[e, new] - now
            if risky:
                price += _strained(old, new, share, more, strain[e])
            if price < most[moves + q]:
                _remember(moves + q, price, e, new, count, cost, expert, target, most)
            for p in range(parts):
                if (old >> p) & 1:
                    new = (old & ~(1 << p)) | (1 << q)
                    price = alternatives[e, new] - now
                    if risky:
                        price += share * strain[e, q] - share * strain[e, p]
                    # The parts' wish for load tells apart moves of equal cost.
                    price += load[e] / copies * (rest_wanted[p] - rest_wanted[q])
                    if price < most[p * parts + q]:
                        _remember(p * parts + q, price, e, new, count, cost, expert, target, most)


@compiled
def part_in(mask: int, p: int) -> float:
    """What part of an expert's load a part with ``mask`` carries."""
    return ((mask >> p) & 1) / popcount(mask) if mask else 0.0


@compiled
def strained(e: int, old: int, new: int, strain: Floats) -> float:
    """First-order price of the risk that an expert's new mask brings; ``strain`` is empty where risk has no price."""
    if len(strain) == 0:
        return 0.0
    return _strained(old, new, 1.0 / max(popcount(old), 1), 1.0 / max(popcount(new), 1), strain[e])


@compiled
def _strained(old: int, new: int, before: float, after: float, strain: Floats) -> float:
    """The same for one expert that gives each of its parts ``before`` of its load, and then ``after``."""
    total = 0.0
    for p in range(len(strain)):
        total += (((new >> p) & 1) * after - ((old >> p) & 1) * before) * strain[p]
    return total


@compiled
def _remember(
    direction: int, price: float, e: int, new: int, count: Ints, cost: Floats, expert: Ints, target: Ints, most: Floats
) -> None:
    """Insert into the direction's list, which stays sorted by price and at most ``TOP`` long."""
    n = min(count[direction], TOP - 1)
    count[direction] = n + 1
    while n > 0 and cost[direction, n - 1] > price:
        cost[direction, n] = cost[direction, n - 1]
        expert[direction, n] = expert[direction, n - 1]
        target[direction, n] = target[direction, n - 1]
        n -= 1
    cost[direction, n], expert[direction, n], target[direction, n] = price, e, new
    if count[direction] == TOP:
        most[direction] = cost[direction, TOP - 1]


@compiled
def wishes(loads: Floats, share: Floats, rigour: float) -> Floats:
    """A small price per load in each part, above 0 where there is too little: it tells moves of equal cost apart."""
    wishes = np.zeros(len(loads))
    for p in range(len(loads)):
        if share[p] > 0:
            wishes[p] = (0.05 if loads[p] < share[p] else -0.05) * rigour / share[p]
    return wishes


@compiled
def pair_up(
    count: Ints,
    price: Floats,
    expert: Ints,
    fresh: Ints,
    load_change: Floats,
    slot_change: Ints,
    used: Ints,
    capacity: Ints,
    loads: Floats,
    share: Floats,
    slack: float,
    rigour: float,
    limit: int,
    wide: bool,
    pick_price: Floats,
    pick: Ints,
) -> int:
    """Shortlist single moves and pairs that fit, by price and overload; returns how many."""
    parts = len(capacity)
    room, new_load = capacity - used, np.zeros(parts)
    over = overload(loads, share, slack)
    saved = -rigour * over  # at most, by less overload
    picks, partners = 0, np.zeros(len(count), np.int64)
    for a in range(len(count)):
        partner_count = 0
        for b in range(a + 1, len(count)):
            if wide or _complement(a, b, parts):
                partners[partner_count] = b
                partner_count += 1
        for i in range(count[a]):
            if (fresh[a, i] <= 0 or fresh[a, i] <= limit) and _fits(slot_change[a, i], room):
                for p in range(parts):
                    new_load[p] = loads[p] + load_change[a, i, p]
                total = price[a, i] + rigour * (overload(new_load, share, slack) - over)
                picks = _shortlist(total, a, i, -1, -1, pick_price, pick, picks)
            for b in partners[:partner_count]:
                for j in range(count[b]):
                    if picks == EXACT and price[a, i] + price[b, j] + saved >= pick_price[EXACT - 1]:
                        continue
                    added = fresh[a, i] + fresh[b, j]
                    if expert[a, i] == expert[b, j] or (added > 0 and added > limit):
                        continue
                    fits = True
                    for p in range(parts):
                        fits = fits and slot_change[a, i, p] + slot_change[b, j, p] <= max(0, room[p])
                        new_load[p] = loads[p] + load_change[a, i, p] + load_change[b, j, p]
                    if fits:
                        total = price[a, i] + price[b, j] + rigour * (overload(new_load, share, slack) - over)
                        picks = _shortlist(total, a, i, b, j, pick_price, pick, picks)
    return picks


@compiled
def _fits(slot_change: Ints, room: Ints) -> bool:
    """Whether every part has room for what is added; a part that is overfull already may only lose."""
    fits = True
    for p in range(len(room)):
        fits = fits and slot_change[p] <= max(0, room[p])
    return fits


@compiled
def _complement(a: int, b: int, parts: int) -> bool:
    """Whether two directions make up for each other's slots: a swap, a copy for a copy, a move onto a copy's slot."""
    moves = parts * parts
    if a < moves:
        p, q = a // parts, a % parts
        if b < moves:
            return b == q * parts + p
        return b == moves + parts + q or b == moves + p
    if a < moves + parts:
        return b == a + parts
    return False


@compiled
def _shortlist(total: float, a: int, i: int, b: int, j: int, pick_price: Floats, pick: Ints, picks: int) -> int:
    """Keep the ``EXACT`` cheapest combinations, sorted; returns how many there are."""
    n = picks
    if n == EXACT:
        if total >= pick_price[n - 1]:
            return picks
        n -= 1
    else:
        picks += 1
    while n > 0 and pick_price[n - 1] > total:
        pick_price[n] = pick_price[n - 1]
        pick[n] = pick[n - 1]
        n -= 1
    pick_price[n] = total
    pick[n, 0], pick[n, 1], pick[n, 2], pick[n, 3] = a, i, b, j
    return picks
