"""Moves between the parts of a split: which are cheap, which pairs fit, and what they do to slots and loads.

A move gives one expert a new mask. Moves are listed by direction: from p to q (p * parts + q), one more copy on q, one
copy less on p; arrays ``[directions, TOP]`` hold the cheapest of each.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from moe_placement.compiled import compiled
from moe_placement.solver.constants import EXACT, SHIFTABLE, TIE_BREAK, TOP
from moe_placement.solver.cover import Floats, Ints, Table, Tokens, popcount


class Goal(NamedTuple):
    """What a split shall be good at; see ``split`` for the objective.

    Attributes:
        tokens, table: what visits cost.
        load: float64 ``[experts]``, summing to 1.
        covariance: float64 ``[experts, experts]`` of these loads, in units of ``risk`` standard deviations; empty where
            surges have no price.
        fewest: int64 ``[experts]`` parts each expert must be in.
        slots_of: int64 ``[experts, parts + 1]`` slots it takes in each of its parts, by the number of its parts.
        capacity: int64 ``[parts]`` slots.
        share: float64 ``[parts]``, what part of the load each should carry.
        tolerance: relative load above the share at no price.
        overload, surge: prices in remote visits per token, of a relative load of 1 beyond; see ``problem.Prices``.
    """

    tokens: Tokens
    table: Table
    load: Floats
    covariance: Floats
    fewest: Ints
    slots_of: Ints
    capacity: Ints
    share: Floats
    tolerance: float
    overload: float
    surge: float


class State(NamedTuple):
    """Where a search stands; all changed in place.

    Attributes:
        masks: int64 ``[experts]`` parts of each, 0 for an expert that is not part of the problem.
        alternatives: float64 ``[experts, 2^parts]``, see ``cover``.
        used, loads: int64 and float64 ``[parts]``, slots taken and load carried.
        with_part: float64 ``[parts, experts]``, covariance of each part's load with each expert's.
        variance: float64 ``[parts]`` of each part's load.
        shiftable: float64 ``[parts]``, load that copies elsewhere can take over.
        risk: float64 ``[experts, parts]``, price of the surge that a unit more of an expert's load in a part brings, to
            first order; ``[0, parts]`` where surges have no price.
        resting: int64 ``[experts]``, step until which an expert does not move again.
    """

    masks: Ints
    alternatives: Floats
    used: Ints
    loads: Floats
    with_part: Floats
    variance: Floats
    shiftable: Floats
    risk: Floats
    resting: Ints


class Moves(NamedTuple):
    """The cheapest moves of each direction, and combinations of them that look best.

    Attributes:
        listed: int64 ``[directions]``, how many.
        expert, target, added: int64 ``[directions, TOP]``; the expert, its new mask, and copies beyond those of the
            placement that the search started from.
        price, risk: float64 ``[directions, TOP]``; visits and surges to first order, and the latter alone.
        load_change, slot_change: float64 and int64 ``[directions, TOP, parts]``.
        pick_price, pick: float64 ``[EXACT]`` and int64 ``[EXACT, 4]``: direction and place of one move or two (-1).
    """

    listed: Ints
    expert: Ints
    target: Ints
    added: Ints
    price: Floats
    risk: Floats
    load_change: Floats
    slot_change: Ints
    pick_price: Floats
    pick: Ints


@compiled
def no_moves(parts: int) -> Moves:
    """Room for the moves of a step."""
    directions = parts * parts + 2 * parts
    return Moves(
        np.zeros(directions, np.int64),
        np.zeros((directions, TOP), np.int64), np.zeros((directions, TOP), np.int64),
        np.zeros((directions, TOP), np.int64),
        np.zeros((directions, TOP)), np.zeros((directions, TOP)),
        np.zeros((directions, TOP, parts)), np.zeros((directions, TOP, parts), np.int64),
        np.zeros(EXACT), np.zeros((EXACT, 4), np.int64),
    )  # fmt: skip


@compiled
def overload(load: Floats, share: Floats, tolerance: float) -> float:
    """Sum over parts of relative load above 1 + tolerance."""
    total = 0.0
    for p in range(len(share)):
        if share[p] > 0:
            total += max(0.0, load[p] / share[p] - 1.0 - tolerance)
        else:
            total += load[p] * 1e3
    return total


@compiled
def list_moves(goal: Goal, state: State, origin: Ints, step: int, moves: Moves) -> None:
    """Write down the ``TOP`` cheapest moves of each direction, with what they change; experts at rest are left out."""
    _collect(goal, state, step, _tie_breaks(state.loads, goal.share, goal.overload), moves)
    masks = state.masks
    for d in range(len(moves.listed)):
        for i in range(moves.listed[d]):
            e, new = moves.expert[d, i], moves.target[d, i]
            old = masks[e]
            _changes(goal.load[e], old, new, goal.slots_of[e], moves.load_change[d, i], moves.slot_change[d, i])
            moves.added[d, i] = popcount(new & ~origin[e]) - popcount(old & ~origin[e])
            moves.risk[d, i] = 0.0
            if goal.surge > 0:
                before, after = 1.0 / max(popcount(old), 1), 1.0 / max(popcount(new), 1)
                moves.risk[d, i] = _risk_change(old, new, before, after, state.risk[e])
            moves.price[d, i] = state.alternatives[e, new] - state.alternatives[e, old] + moves.risk[d, i]


@compiled
def _changes(load: float, old: int, new: int, slots: Ints, load_change: Floats, slot_change: Ints) -> None:
    """Write how parts' loads and slots change when the mask of an expert with ``load`` does."""
    c_old, c_new = popcount(old), popcount(new)
    for p in range(len(load_change)):
        had, has = (old >> p) & 1, (new >> p) & 1
        load_change[p] = load * (has / c_new - had / c_old)
        slot_change[p] = has * slots[c_new] - had * slots[c_old]


@compiled
def _collect(goal: Goal, state: State, step: int, tie_break: Floats, moves: Moves) -> None:
    masks, alternatives, risk, load, fewest = state.masks, state.alternatives, state.risk, goal.load, goal.fewest
    moves.listed[:] = 0
    parts, risky = len(goal.capacity), goal.surge > 0
    singles = parts * parts
    most = np.full(len(moves.listed), np.inf)  # what is not cheaper is not among the cheapest
    for e in range(len(masks)):
        old = masks[e]
        if old == 0 or state.resting[e] > step:
            continue
        copies, now = popcount(old), alternatives[e, old]
        share, more = 1.0 / copies, 1.0 / (copies + 1)
        for q in range(parts):
            if (old >> q) & 1:
                if copies > fewest[e]:
                    new = old & ~(1 << q)
                    price = alternatives[e, new] - now
                    if risky:
                        price += _risk_change(old, new, share, 1.0 / max(copies - 1, 1), risk[e])
                    if price < most[singles + parts + q]:
                        _remember(singles + parts + q, price, e, new, moves, most)
                continue
            new = old | (1 << q)
            price = alternatives[e, new] - now
            if risky:
                price += _risk_change(old, new, share, more, risk[e])
            if price < most[singles + q]:
                _remember(singles + q, price, e, new, moves, most)
            for p in range(parts):
                if (old >> p) & 1:
                    new = (old & ~(1 << p)) | (1 << q)
                    price = alternatives[e, new] - now
                    if risky:
                        price += share * risk[e, q] - share * risk[e, p]
                    price += load[e] / copies * (tie_break[p] - tie_break[q])
                    if price < most[p * parts + q]:
                        _remember(p * parts + q, price, e, new, moves, most)


@compiled
def part_in(mask: int, p: int) -> float:
    """What part of an expert's load a part carries under ``mask``."""
    return ((mask >> p) & 1) / popcount(mask) if mask else 0.0


@compiled
def shiftable_in(mask: int, p: int) -> float:
    """What part of an expert's load its other copies can take over from part p."""
    return SHIFTABLE * part_in(mask, p) if popcount(mask) > 1 else 0.0


@compiled
def _risk_change(old: int, new: int, before: float, after: float, risk: Floats) -> float:
    """First-order price of the surges that a new mask of one expert brings, which gives each of its parts ``before`` of
    its load, and then ``after``.
    """
    total = 0.0
    for p in range(len(risk)):
        total += (((new >> p) & 1) * after - ((old >> p) & 1) * before) * risk[p]
    return total


@compiled
def _remember(direction: int, price: float, e: int, new: int, moves: Moves, most: Floats) -> None:
    """Insert into the direction's list, which stays sorted by price and at most ``TOP`` long."""
    cost, expert, target = moves.price[direction], moves.expert[direction], moves.target[direction]
    n = min(moves.listed[direction], TOP - 1)
    moves.listed[direction] = n + 1
    while n > 0 and cost[n - 1] > price:
        cost[n] = cost[n - 1]
        expert[n] = expert[n - 1]
        target[n] = target[n - 1]
        n -= 1
    cost[n], expert[n], target[n] = price, e, new
    if moves.listed[direction] == TOP:
        most[direction] = cost[TOP - 1]


@compiled
def _tie_breaks(loads: Floats, share: Floats, price: float) -> Floats:
    """A small price per load in each part, above 0 where there is too little: it tells moves of equal cost apart."""
    prices = np.zeros(len(loads))
    for p in range(len(loads)):
        if share[p] > 0:
            prices[p] = (TIE_BREAK if loads[p] < share[p] else -TIE_BREAK) * price / share[p]
    return prices


@compiled
def pair_up(goal: Goal, state: State, moves: Moves, limit: int, wide: bool) -> int:
    """Shortlist single moves and pairs that fit, by price and overload; returns how many.

    At most ``limit`` copies may be added. ``wide`` tries every pair, not only those that make up for each other's
    slots.
    """
    count, price, expert, added = moves.listed, moves.price, moves.expert, moves.added
    load_change, slot_change, pick_price = moves.load_change, moves.slot_change, moves.pick_price
    loads, share, tolerance = state.loads, goal.share, goal.tolerance
    parts = len(goal.capacity)
    room, new_load = goal.capacity - state.used, np.zeros(parts)
    over = overload(loads, share, tolerance)
    saved = -goal.overload * over  # at most, by less overload
    picks, partners = 0, np.zeros(len(count), np.int64)
    for a in range(len(count)):
        partner_count = 0
        for b in range(a + 1, len(count)):
            if wide or _complement(a, b, parts):
                partners[partner_count] = b
                partner_count += 1
        for i in range(count[a]):
            if (added[a, i] <= 0 or added[a, i] <= limit) and _fits(slot_change[a, i], room):
                for p in range(parts):
                    new_load[p] = loads[p] + load_change[a, i, p]
                total = price[a, i] + goal.overload * (overload(new_load, share, tolerance) - over)
                picks = _shortlist(total, a, i, -1, -1, moves, picks)
            for b in partners[:partner_count]:
                for j in range(count[b]):
                    if picks == EXACT and price[a, i] + price[b, j] + saved >= pick_price[EXACT - 1]:
                        continue
                    both = added[a, i] + added[b, j]
                    if expert[a, i] == expert[b, j] or (both > 0 and both > limit):
                        continue
                    fits = True
                    for p in range(parts):
                        fits = fits and slot_change[a, i, p] + slot_change[b, j, p] <= max(0, room[p])
                        new_load[p] = loads[p] + load_change[a, i, p] + load_change[b, j, p]
                    if fits:
                        total = price[a, i] + price[b, j]
                        total += goal.overload * (overload(new_load, share, tolerance) - over)
                        picks = _shortlist(total, a, i, b, j, moves, picks)
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
def _shortlist(total: float, a: int, i: int, b: int, j: int, moves: Moves, picks: int) -> int:
    """Keep the ``EXACT`` cheapest combinations, sorted; returns how many there are."""
    pick_price, pick = moves.pick_price, moves.pick
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
