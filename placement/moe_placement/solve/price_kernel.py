"""What tokens cost under the current masks, and would cost if one expert's mask were another.

The state is one bit mask of parts per expert. ``alternatives[e, m]`` holds the cost of e's tokens if e alone had mask
m; ``give_mask`` changes one expert and keeps the table up to date.

Array arguments: sets int64 [n, k] expert ids, -1 for none; weight float64 [n]; inside int64 [n] row of ``costs``;
first, members int64 CSR, the sets that hold each expert; masks int64 [experts], 0 for an expert that is not part of the
problem; hits, costs from ``families``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.solve.compiled import compiled

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@compiled
def popcount(mask: int) -> int:
    """Bits set."""
    count = 0
    while mask:
        mask &= mask - 1
        count += 1
    return count


@compiled
def _price_set(members: Ints, masks: Ints, hits: Ints, before: Ints, after: Ints, size: int) -> None:
    """Fill ``before[i]`` with the AND over members in front of i, ``after[i]`` with that over those behind it."""
    running = -1
    for i in range(size):
        before[i] = running
        if members[i] >= 0:
            running &= hits[masks[members[i]]]
    running = -1
    for i in range(size - 1, -1, -1):
        after[i] = running
        if members[i] >= 0:
            running &= hits[masks[members[i]]]


@compiled
def price_alternatives(
    sets: Ints, weight: Floats, inside: Ints, masks: Ints, hits: Ints, costs: Floats, alternatives: Floats
) -> float:
    """Compute ``alternatives`` anew; returns the cost of the state."""
    n, k = sets.shape
    full = costs.shape[1] - 1
    before, after = np.empty(k, np.int64), np.empty(k, np.int64)
    alternatives[:] = 0.0
    total = 0.0
    for s in range(n):
        _price_set(sets[s], masks, hits, before, after, k)
        row = costs[inside[s]]
        family = full
        for i in range(k):
            e = sets[s, i]
            if e < 0:
                continue
            others = before[i] & after[i] & full
            family &= hits[masks[e]]
            for m in range(1, len(hits)):
                alternatives[e, m] += weight[s] * row[others & hits[m]]
        total += weight[s] * row[family]
    return total


@compiled
def give_mask(
    e: int,
    mask: int,
    sets: Ints,
    weight: Floats,
    inside: Ints,
    first: Ints,
    members: Ints,
    masks: Ints,
    hits: Ints,
    costs: Floats,
    alternatives: Floats,
    work: Ints,
) -> None:
    """Give e a new mask and bring ``alternatives`` of all that share a token with it up to date."""
    k = sets.shape[1]
    full = costs.shape[1] - 1
    old = masks[e]
    for position in range(first[e], first[e + 1]):
        s = members[position]
        row, w = costs[inside[s]], weight[s]
        masks[e] = old
        _price_set(sets[s], masks, hits, work[0], work[1], k)
        masks[e] = mask
        _price_set(sets[s], masks, hits, work[2], work[3], k)
        for i in range(k):
            f = sets[s, i]
            if f < 0 or f == e:
                continue
            was, now = work[0, i] & work[1, i] & full, work[2, i] & work[3, i] & full
            if was != now:
                for m in range(1, len(hits)):
                    alternatives[f, m] += w * (row[now & hits[m]] - row[was & hits[m]])
    masks[e] = mask


@compiled
def interaction(
    e: int,
    e_mask: int,
    f: int,
    f_mask: int,
    sets: Ints,
    weight: Floats,
    inside: Ints,
    first: Ints,
    members: Ints,
    masks: Ints,
    hits: Ints,
    costs: Floats,
) -> float:
    """What changing both costs beyond the sum of changing each alone."""
    if first[e + 1] - first[e] > first[f + 1] - first[f]:
        e, e_mask, f, f_mask = f, f_mask, e, e_mask
    full = costs.shape[1] - 1
    extra = 0.0
    for position in range(first[e], first[e + 1]):
        s = members[position]
        both, others = False, full
        for i in range(sets.shape[1]):
            g = sets[s, i]
            if g == f:
                both = True
            elif g >= 0 and g != e:
                others &= hits[masks[g]]
        if both:
            row = costs[inside[s]]
            old_e, new_e, old_f, new_f = hits[masks[e]], hits[e_mask], hits[masks[f]], hits[f_mask]
            extra += weight[s] * (
                row[others & new_e & new_f] - row[others & new_e & old_f]
                - row[others & old_e & new_f] + row[others & old_e & old_f]
            )  # fmt: skip
    return extra


def csr(sets: Ints, experts: int) -> tuple[Ints, Ints]:
    """(first ``[experts + 1]``, members): the sets that hold each expert."""
    flat = sets.ravel()
    kept = np.flatnonzero(flat >= 0)
    order = kept[np.argsort(flat[kept], kind="stable")]
    first = np.zeros(experts + 1, dtype=np.int64)
    np.cumsum(np.bincount(flat[kept], minlength=experts), out=first[1:])
    return first, (order // max(sets.shape[1], 1)).astype(np.int64)
