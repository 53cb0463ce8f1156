"""What tokens cost under the current masks, and would cost if one expert's mask were another.

The state is one bit mask of parts per expert. ``alternatives[e, m]`` holds the cost of e's tokens if e alone had mask
m; ``give_mask`` changes one expert and keeps the table up to date.

Array arguments: sets int32 [n, k] expert ids, -1 for none; weight float64 [n]; first int64, members int32 CSR, the sets
that hold each expert; masks int64 [experts], 0 for an expert that is not part of the problem; hits, costs (a row of
``visit_costs``) from ``families``. Sets are looked at in no order: as small integers they stay near the processor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]
Floats = NDArray[np.float64]


@compiled
def popcount(mask: int) -> int:
    """Bits set in a mask of up to four parts."""
    pairs = mask - ((mask >> 1) & 0b0101)
    return (pairs & 0b0011) + (pairs >> 2)


@compiled
def _narrow(members: Smalls, masks: Ints, hits: Ints, before: Ints) -> int:
    """Fill ``before[i]`` with the AND over the members in front of i; returns the AND over all."""
    family = -1
    for i in range(len(members)):
        before[i] = family
        if members[i] >= 0:
            family &= hits[masks[members[i]]]
    return family


@compiled
def price_alternatives(
    sets: Smalls, weight: Floats, masks: Ints, hits: Ints, costs: Floats, alternatives: Floats
) -> float:
    """Compute ``alternatives`` anew; returns the cost of the state."""
    n, k = sets.shape
    full = len(costs) - 1
    before = np.empty(k, np.int64)
    alternatives[:] = 0.0
    total = 0.0
    for s in range(n):
        total += weight[s] * costs[_narrow(sets[s], masks, hits, before) & full]
        behind = full
        for i in range(k - 1, -1, -1):
            e = sets[s, i]
            if e < 0:
                continue
            others = before[i] & behind
            behind &= hits[masks[e]]
            for m in range(1, len(hits)):
                alternatives[e, m] += weight[s] * costs[others & hits[m]]
    return total


@compiled
def give_mask(
    e: int,
    mask: int,
    sets: Smalls,
    weight: Floats,
    first: Ints,
    members: Smalls,
    masks: Ints,
    hits: Ints,
    costs: Floats,
    alternatives: Floats,
    before: Ints,
) -> None:
    """Give e a new mask and bring ``alternatives`` of all that share a token with it up to date.

    ``before`` int64 [k] is room to work in.
    """
    k = sets.shape[1]
    full = len(costs) - 1
    with_old, with_new = hits[masks[e]] & full, hits[mask] & full
    masks[e] = 0  # meets whatever there is: e's own part of each family is put in below
    for position in range(first[e], first[e + 1]):
        s = members[position]
        _narrow(sets[s], masks, hits, before)
        behind = full
        for i in range(k - 1, -1, -1):
            f = sets[s, i]
            if f < 0 or f == e:
                continue
            others = before[i] & behind
            behind &= hits[masks[f]]
            was, now = others & with_old, others & with_new
            if was != now:
                for m in range(1, len(hits)):
                    alternatives[f, m] += weight[s] * (costs[now & hits[m]] - costs[was & hits[m]])
    masks[e] = mask


@compiled
def interaction(
    e: int,
    e_mask: int,
    f: int,
    f_mask: int,
    sets: Smalls,
    weight: Floats,
    first: Ints,
    members: Smalls,
    masks: Ints,
    hits: Ints,
    costs: Floats,
) -> float:
    """What changing both costs beyond the sum of changing each alone."""
    if first[e + 1] - first[e] > first[f + 1] - first[f]:
        e, e_mask, f, f_mask = f, f_mask, e, e_mask
    full = len(costs) - 1
    old_e, new_e, old_f, new_f = hits[masks[e]], hits[e_mask], hits[masks[f]], hits[f_mask]
    extra = 0.0
    at = first[f]
    for position in range(first[e], first[e + 1]):
        s = members[position]
        # Both lists are in ascending order, and few tokens choose both.
        while at < first[f + 1] and members[at] < s:
            at += 1
        if at == first[f + 1]:
            break
        if members[at] > s:
            continue
        others = full
        for g in sets[s]:
            if g >= 0 and g != e and g != f:
                others &= hits[masks[g]]
        extra += weight[s] * (
            costs[others & new_e & new_f] - costs[others & new_e & old_f]
            - costs[others & old_e & new_f] + costs[others & old_e & old_f]
        )  # fmt: skip
    return extra


@compiled
def csr(sets: Smalls, experts: int) -> tuple[Ints, Smalls]:
    """(first ``[experts + 1]``, members): the sets that hold each expert, in ascending order."""
    first = np.zeros(experts + 1, np.int64)
    for row in sets:
        for e in row:
            if e >= 0:
                first[e + 1] += 1
    for e in range(experts):
        first[e + 1] += first[e]
    members, filled = np.empty(first[experts], np.int32), first.copy()
    for s in range(len(sets)):
        for e in sets[s]:
            if e >= 0:
                members[filled[e]] = s
                filled[e] += 1
    return first, members
