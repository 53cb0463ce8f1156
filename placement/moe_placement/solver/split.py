"""Split experts among at most 4 parts: tabu search on the exact cost of sampled tokens, copies included.

Moves keep slots within capacity, so most are pairs: two experts swap parts, or one takes the slot that a copy of
another gives up. The pairs that look best are priced exactly, interaction and surges included, and the best of them is
taken, even if it is for the worse; experts just moved rest for a while (tabu), and the best state seen is returned.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled, interpreter_is_late
from moe_placement.solver import cover
from moe_placement.solver.constants import (
    FEW,
    MOST_RESTARTS,
    NEARLY_FULL,
    PATIENCE,
    REST,
    REST_SPREAD,
    RESTARTED,
    UNLIMITED,
    VISITS_FOLLOW,
)
from moe_placement.solver.cover import (
    Floats,
    Ints,
    Smalls,
    Table,
    give_mask,
    interaction,
    popcount,
    price_alternatives,
)
from moe_placement.solver.moves import (
    Goal,
    Moves,
    State,
    list_moves,
    no_moves,
    overload,
    pair_up,
    part_in,
    shiftable_in,
)
from moe_placement.solver.problem import LayerProblem, Parts, starts_in
from moe_placement.topology import Topology


@dataclass(frozen=True, slots=True)
class Search:
    """One split, ready to be searched; masks are improved in place, until the deadline as far as whole searches go.

    ``inside``, float64 ``[parts]``, is the part of the tokens that start in each part. In ``goal`` a visit costs the
    same everywhere.
    """

    goal: Goal
    inside: Floats
    problem: LayerProblem

    @classmethod
    def of(
        cls, problem: LayerProblem, topology: Topology, split: Parts, capacity: Ints, slots_of: Ints, fewest: Ints
    ) -> Search:
        sets, parts, prices = problem.sets, len(capacity), problem.prices
        if split.of_all < 1:  # one expert is left of many sets: these cannot be torn apart
            sets = sets[(sets >= 0).sum(axis=1) > 1]
        weight = np.ones(len(sets))
        if len(problem.load) <= FEW:  # many tokens choose the same
            sets, counts = np.unique(np.sort(sets, axis=1), axis=0, return_counts=True)
            weight = counts.astype(np.float64)
        # Where some of all units are split, fewer of their links carry what is visited there.
        weight = weight / (problem.sampled * split.of_all)
        if problem.local:
            beyond = np.arange(parts + 1) > fewest[:, None]
            slots_of = np.where(beyond, UNLIMITED, slots_of)
        total = max(float(problem.load.sum()), 1e-300)
        covariance = np.zeros((0, 0))
        if problem.covariance is not None:
            covariance = problem.covariance_among(slice(None)) * (problem.risk / total) ** 2
        inside = starts_in(topology, split)
        goal = Goal(
            cover.tokens_of(sets.astype(np.int32), weight, len(problem.load)), _table(np.ones(parts), inside),
            problem.load / total, covariance, fewest, slots_of, capacity, split.share, problem.tolerance,
            prices.overload, prices.surge / parts if len(covariance) else 0.0,
        )  # fmt: skip
        return cls(goal, inside, problem)

    @property
    def has_tokens(self) -> bool:
        """Whether there is any set that can be torn apart."""
        return len(self.goal.tokens.sets) > 0

    def improve(self, masks: Ints, origin: Ints, budget: int) -> None:
        """Search from ``masks``, then once more with a higher price on the parts that most tokens come to.

        The busiest network card is the one that counts, and parts with equal loads need not be visited equally often.
        """
        goal, thorough, seed = self.goal, self.problem.thorough, self.problem.seed
        if not self._late():
            self._run(goal, masks, origin, budget, PATIENCE if thorough else PATIENCE // 4, seed)
        if len(masks) > FEW and thorough and not self._late():
            visits = _visits(goal.tokens.sets, masks, len(goal.capacity))
            prices = 1 + VISITS_FOLLOW * (visits / max(float(visits.mean()), 1e-300) - 1)
            followed = goal._replace(table=_table(prices, self.inside))
            self._run(followed, masks, origin, budget, PATIENCE // 2, seed)

    def restart(self, masks: Ints, origin: Ints) -> None:
        """Try random splits as well, and keep the best."""
        experts, seed = len(masks), self.problem.seed
        random = np.random.default_rng(seed)
        if self._late():
            return
        best = self._run(self.goal, masks, origin, UNLIMITED, 2 * PATIENCE, seed)
        for number in range(min(MOST_RESTARTS, RESTARTED // experts**2)):
            if self._late():
                return
            order = random.permutation(experts)
            trial = masks.copy()
            # Slots stay as they are used: who has which mask is shuffled, and then improved.
            trial[order] = masks[np.sort(order)]
            trial[masks == 0] = 0
            found = self._run(self.goal, trial, origin, UNLIMITED, 2 * PATIENCE, seed + number + 1)
            if found < best - 1e-12:
                best = found
                masks[:] = trial

    def _late(self) -> bool:
        return time.monotonic() > self.problem.deadline

    def _run(self, goal: Goal, masks: Ints, origin: Ints, budget: int, patience: int, seed: int) -> float:
        wide = len(masks) <= FEW
        return float(refine(goal, masks, origin, budget, patience, seed, wide, self.problem.deadline))


def _table(prices: Floats, inside: Floats) -> Table:
    """What visits cost where one to each part costs its price, float64 ``[parts]``."""
    return Table(cover.hits(len(prices)), cover.visit_costs(prices, inside))


def _visits(sets: Smalls, masks: Ints, parts: int) -> Floats:
    """float64 ``[parts]``: fraction of tokens that single copies take to each part."""
    of_pair = np.where(sets >= 0, masks[sets], 0)
    forced = np.bitwise_or.reduce(np.where(np.bitwise_count(of_pair) == 1, of_pair, 0), axis=1)
    return np.asarray(((forced[:, None] >> np.arange(parts)) & 1).mean(axis=0), dtype=np.float64)


@compiled
def seed_masks(
    pairs: NDArray[np.float32], load: Floats, present: NDArray[np.bool_], fewest: Ints, slots_of: Ints, capacity: Ints,
    share: Floats, affinity: float, masks: Ints,
) -> None:  # fmt: skip
    """A first split: heaviest experts first, each to the parts whose experts it is chosen with most.

    Fills ``masks`` (int64 ``[experts]``) of the experts present; pairs float32 ``[experts, experts]`` counts,
    symmetric; they are not looked at where ``affinity`` is 0. A part attracts an expert by the fraction of its partners
    that are there already and repels it by its relative load; a part without room is taken only when none has any.
    """
    experts, parts = len(load), len(capacity)
    used, filled = np.zeros(parts, np.int64), np.zeros(parts)
    together = np.zeros((experts, parts))
    order = np.argsort(-load, kind="mergesort")
    total = max(load.sum(), 1e-300)
    for position in range(experts):
        e = order[position]
        if not present[e]:
            continue
        partners = 1.0
        if affinity > 0:
            partners = max(float(pairs[e].sum()) - float(pairs[e, e]), 1e-12)
        copies = min(fewest[e], parts)
        masks[e] = 0
        for _ in range(copies):
            best, best_score = -1, 0.0
            for p in range(parts):
                if (masks[e] >> p) & 1 or share[p] <= 0:
                    continue
                relative = filled[p] / total / share[p]
                score = affinity * together[e, p] / partners - relative * share[p]
                if relative + load[e] / copies / total / share[p] > NEARLY_FULL:
                    score -= 2.0 + relative
                if used[p] + slots_of[e, copies] > capacity[p]:
                    score -= 1e3 + 1e3 * (used[p] - capacity[p])
                if best < 0 or score > best_score:
                    best, best_score = p, score
            masks[e] |= 1 << best
            used[best] += slots_of[e, copies]
            filled[best] += load[e] / copies
            if affinity > 0:
                for f in range(experts):
                    if f != e:
                        together[f, best] += pairs[e, f]


@compiled
def refine(
    goal: Goal, masks: Ints, origin: Ints, limit: int, patience: int, seed: int, wide: bool, deadline: float
) -> float:
    """Improve ``masks`` in place until ``patience`` steps brought nothing; returns the value of the best state.

    At most ``limit`` bits may be set that ``origin`` (int64 ``[experts]``) does not have: copies that would have to be
    moved there. ``wide`` tries every pair of moves, not only those that make up for each other's slots.
    """
    experts, parts = len(masks), len(goal.capacity)
    risky = experts if goal.surge > 0 else 0
    state = State(
        masks, np.zeros((experts, len(goal.table.hits))), np.zeros(parts, np.int64), np.zeros(parts),
        np.zeros((parts, experts)), np.zeros(parts), np.zeros(parts), np.zeros((risky, parts)),
        np.zeros(experts, np.int64),
    )  # fmt: skip
    cost = price_alternatives(goal.tokens, goal.table, masks, state.alternatives)
    added = _take_stock(goal, state, origin)
    value = cost + goal.overload * overload(state.loads, goal.share, goal.tolerance) + goal.surge * _surge(goal, state)
    best, best_masks = value, masks.copy()
    moves, before = no_moves(parts), np.zeros(goal.tokens.sets.shape[1], np.int64)
    idle = step = 0
    random = seed & 0x7FFFFFFF
    while idle < patience and not interpreter_is_late(deadline):
        step += 1
        idle += 1
        if goal.surge > 0:
            _price_risk(goal, state)
        list_moves(goal, state, origin, step, moves)
        chosen, change = _cheapest(goal, state, moves, pair_up(goal, state, moves, limit - added, wide))
        if chosen < 0:
            continue
        value += change
        a, i, b, j = moves.pick[chosen]
        for d, n in ((a, i), (b, j)):
            if d < 0:
                continue
            e, new = moves.expert[d, n], moves.target[d, n]
            for p in range(parts):
                state.loads[p] += moves.load_change[d, n, p]
                state.used[p] += moves.slot_change[d, n, p]
            added += moves.added[d, n]
            if goal.surge > 0:
                _shift(goal, state, e, masks[e], new)
            random = (random * 1103515245 + 12345) & 0x7FFFFFFF  # not NumPy's: interpreted, that one is everybody's
            state.resting[e] = step + REST + (random >> 16) % REST_SPREAD
            give_mask(e, new, goal.tokens, goal.table, masks, state.alternatives, before)
        if value < best - 1e-9:
            best, idle = value, 0
            best_masks[:] = masks
    masks[:] = best_masks
    return best


@compiled
def _take_stock(goal: Goal, state: State, origin: Ints) -> int:
    """Fill what the parts hold; returns the bits that ``origin`` does not have."""
    masks, added = state.masks, 0
    for e in range(len(masks)):
        copies = popcount(masks[e])
        added += popcount(masks[e] & ~origin[e])
        for p in range(len(state.used)):
            if (masks[e] >> p) & 1:
                state.used[p] += goal.slots_of[e, copies]
                state.loads[p] += goal.load[e] / copies
    if goal.surge > 0:
        for e in range(len(masks)):
            _shift(goal, state, e, 0, masks[e])
    return added


@compiled
def _cheapest(goal: Goal, state: State, moves: Moves, picks: int) -> tuple[int, float]:
    """(which of the shortlisted combinations is cheapest, by what it changes the value); (-1, inf) for none."""
    chosen, change = -1, np.inf
    for c in range(picks):
        a, i, b, j = moves.pick[c]
        e, e_mask = moves.expert[a, i], moves.target[a, i]
        f, f_mask = (moves.expert[b, j], moves.target[b, j]) if b >= 0 else (-1, 0)
        exact = moves.pick_price[c]
        if f >= 0:
            exact += interaction(e, e_mask, f, f_mask, goal.tokens, goal.table, state.masks)
        if goal.surge > 0:
            exact -= moves.risk[a, i] + (moves.risk[b, j] if b >= 0 else 0.0)
            exact += goal.surge * _surge_change(goal, state, e, e_mask, f, f_mask)
        if exact < change:
            chosen, change = c, exact
    return chosen, change


@compiled
def _shift(goal: Goal, state: State, e: int, old: int, new: int) -> None:
    """Move an expert's load, with its part in surges, from the parts of one mask to those of another."""
    covariance, with_part = goal.covariance, state.with_part
    for p in range(len(state.variance)):
        state.shiftable[p] += goal.load[e] * (shiftable_in(new, p) - shiftable_in(old, p))
        step = part_in(new, p) - part_in(old, p)
        if step != 0.0:
            state.variance[p] += 2 * step * with_part[p, e] + step * step * covariance[e, e]
            for f in range(with_part.shape[1]):
                with_part[p, f] += step * covariance[e, f]


@compiled
def _price_risk(goal: Goal, state: State) -> None:
    """Write what one unit more of each expert's load in each part adds to the price of surges, to first order."""
    for p in range(len(goal.share)):
        deviation = np.sqrt(max(state.variance[p], 0.0))
        slope = 0.0
        if goal.share[p] > 0 and deviation > max(state.shiftable[p], 0.0):
            slope = goal.surge / (deviation * goal.share[p])
        for e in range(len(state.risk)):
            state.risk[e, p] = slope * state.with_part[p, e]


@compiled
def _surge(goal: Goal, state: State) -> float:
    """Sum over parts of the standard deviation of their relative load, sqrt(1' Sigma 1), less what copies elsewhere can
    take over.
    """
    total = 0.0
    for p in range(len(goal.share)):
        if goal.share[p] > 0:
            total += max(np.sqrt(max(state.variance[p], 0.0)) - state.shiftable[p], 0.0) / goal.share[p]
    return total


@compiled
def _surge_change(goal: Goal, state: State, e: int, e_mask: int, f: int, f_mask: int) -> float:
    """How ``_surge`` changes with one or two new masks (f is -1 for one)."""
    masks, load, covariance, with_part = state.masks, goal.load, goal.covariance, state.with_part
    total = 0.0
    for p in range(len(goal.share)):
        if goal.share[p] <= 0:
            continue
        step = part_in(e_mask, p) - part_in(masks[e], p)
        new = state.variance[p] + 2 * step * with_part[p, e] + step * step * covariance[e, e]
        shiftable = state.shiftable[p] + load[e] * (shiftable_in(e_mask, p) - shiftable_in(masks[e], p))
        if f >= 0:
            shiftable += load[f] * (shiftable_in(f_mask, p) - shiftable_in(masks[f], p))
            other = part_in(f_mask, p) - part_in(masks[f], p)
            new += 2 * other * with_part[p, f] + other * other * covariance[f, f] + 2 * step * other * covariance[e, f]
        before = max(np.sqrt(max(state.variance[p], 0.0)) - state.shiftable[p], 0.0)
        total += (max(np.sqrt(max(new, 0.0)) - shiftable, 0.0) - before) / goal.share[p]
    return total
