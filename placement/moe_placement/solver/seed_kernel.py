"""A first split: heaviest experts first, each to the parts whose experts it is chosen with most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def seed_masks(
    pairs: NDArray[np.float32],
    load: Floats,
    present: NDArray[np.bool_],
    least: Ints,
    slots_of: Ints,
    capacity: Ints,
    share: Floats,
    affinity: float,
    masks: Ints,
) -> None:
    """Fill ``masks`` (int64 [experts]) of the experts present; pairs float32 [experts, experts] counts, symmetric; they
    are not looked at where ``affinity`` is 0.

    A part attracts an expert by the fraction of its partners that are there already and repels it by its relative load;
    a part without room is taken only when none has any.
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
        copies = min(least[e], parts)
        masks[e] = 0
        for _ in range(copies):
            best, best_score = -1, 0.0
            for p in range(parts):
                if (masks[e] >> p) & 1 or share[p] <= 0:
                    continue
                relative = filled[p] / total / share[p]
                score = affinity * together[e, p] / partners - relative * share[p]
                if relative + load[e] / copies / total / share[p] > 1.02:
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
