"""Swap copies between the shards of one region until a surge of load is least likely to overfill one of them.

Experts that are chosen together surge together, so what is at stake on a shard is its load and what that may rise by:
some standard deviations, less what its replicated experts can leave to their other copies meanwhile. Slots and numbers
of copies stay what they are.

Array arguments: part float64 [experts], load of one copy; weight float64 [experts], what part of its expert that is;
yielding float64 [experts], load that one copy can leave to others; held bool [experts, shards], changed in place;
share float64 [shards] (what each should carry, in proportion); covariance float64 [experts, experts] of the experts'
loads. ``state`` float64 [3, shards]: load, load that can be left to others, and variance of each shard; pull float64
[shards, experts]: covariance of each shard's load with each expert's.
"""

from __future__ import annotations

import numpy as np

from moe_placement.compiled import compiled
from moe_placement.solver.shard_kernel import Bools, Floats, power

LOAD, RELIEF, SQUARE = 0, 1, 2


@compiled
def settle(
    part: Floats, weight: Floats, yielding: Floats, held: Bools, share: Floats, covariance: Floats, risk: float,
    limit: int,
) -> int:  # fmt: skip
    """Make up to ``limit`` swaps, each the best for the shard with most at stake; returns how many."""
    experts, shards = held.shape
    state, pull, change = np.zeros((3, shards)), np.zeros((shards, experts)), np.zeros((2, 3))
    _take_stock(part, weight, yielding, held, covariance, state, pull)
    mean = state[LOAD].sum() / share.sum() if share.sum() > 0 else 0.0
    made = 0
    while mean > 0 and made < limit:
        worst = 0
        for g in range(1, shards):
            if stake(state[:, g], share[g], risk) > stake(state[:, worst], share[worst], risk):
                worst = g
        best, best_e, best_f, best_h = -1e-9, -1, -1, -1
        for h in range(shards):
            if h == worst or share[h] <= 0:
                continue
            before = _measure(state[:, worst], share[worst], risk, mean) + _measure(state[:, h], share[h], risk, mean)
            for e in range(experts):
                if not held[e, worst] or held[e, h]:
                    continue
                for f in range(experts):
                    if not held[f, h] or held[f, worst]:
                        continue
                    _after(e, f, worst, h, part, weight, yielding, covariance, state, pull, change)
                    gain = _measure(change[0], share[worst], risk, mean) + _measure(change[1], share[h], risk, mean)
                    if gain - before < best:
                        best, best_e, best_f, best_h = gain - before, e, f, h
        if best_e < 0:
            break
        _after(best_e, best_f, worst, best_h, part, weight, yielding, covariance, state, pull, change)
        state[:, worst], state[:, best_h] = change[0], change[1]
        for x in range(experts):
            step = weight[best_f] * covariance[best_f, x] - weight[best_e] * covariance[best_e, x]
            pull[worst, x] += step
            pull[best_h, x] -= step
        held[best_e, worst], held[best_f, best_h] = False, False
        held[best_e, best_h], held[best_f, worst] = True, True
        made += 1
    return made


@compiled
def _take_stock(
    part: Floats, weight: Floats, yielding: Floats, held: Bools, covariance: Floats, state: Floats, pull: Floats
) -> None:
    experts, shards = held.shape
    for g in range(shards):
        for e in range(experts):
            if held[e, g]:
                state[LOAD, g] += part[e]
                state[RELIEF, g] += yielding[e]
                pull[g] += weight[e] * covariance[e]
        for e in range(experts):
            if held[e, g]:
                state[SQUARE, g] += weight[e] * pull[g, e]


@compiled
def _after(
    e: int, f: int, g: int, h: int, part: Floats, weight: Floats, yielding: Floats, covariance: Floats, state: Floats,
    pull: Floats, change: Floats,
) -> None:  # fmt: skip
    """Write to ``change`` [2, 3] the states of g and h once e on g and f on h have changed places."""
    a, b = weight[e], weight[f]
    cross = a * a * covariance[e, e] + b * b * covariance[f, f] - 2 * a * b * covariance[e, f]
    change[0, LOAD] = state[LOAD, g] + part[f] - part[e]
    change[1, LOAD] = state[LOAD, h] + part[e] - part[f]
    change[0, RELIEF] = state[RELIEF, g] + yielding[f] - yielding[e]
    change[1, RELIEF] = state[RELIEF, h] + yielding[e] - yielding[f]
    change[0, SQUARE] = state[SQUARE, g] + 2 * (b * pull[g, f] - a * pull[g, e]) + cross
    change[1, SQUARE] = state[SQUARE, h] + 2 * (a * pull[h, e] - b * pull[h, f]) + cross


@compiled
def stake(state: Floats, share: float, risk: float) -> float:
    """Relative load that a shard may rise to; 0 for a shard without a share."""
    if share <= 0:
        return 0.0
    return float((state[LOAD] + max(0.0, risk * np.sqrt(max(state[SQUARE], 0.0)) - state[RELIEF])) / share)


@compiled
def _measure(state: Floats, share: float, risk: float, mean: float) -> float:
    return share * power(stake(state, share, risk) / mean)
