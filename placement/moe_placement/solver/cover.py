"""What tokens cost under a split of experts among parts, as a table lookup.

Parts (at most 4) are the groups of shards between which experts are split. An expert's copies are a bit mask of parts.
The subsets of parts that could serve a token are a *family*, a bit set over all 2^parts subsets: an expert with mask m
allows the subsets that meet m, and a token allows the intersection over its experts. The cost of a token is then one
lookup by its family: exact minimum covers, for any replication, in as many ANDs as the token has experts.

``alternatives[e, m]`` holds the cost of e's tokens if e alone had mask m; ``give_mask`` changes one expert and keeps
the table up to date.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled

Ints = NDArray[np.int64]
Smalls = NDArray[np.int32]
Floats = NDArray[np.float64]


class Tokens(NamedTuple):
    """Sampled tokens, and who chose which expert. Looked at in no order: as small integers they stay near the
    processor.

    Attributes:
        sets: int32 ``[n, k]`` expert ids, -1 for none.
        weight: float64 ``[n]``.
        first, members: int64 ``[experts + 1]`` and int32; the sets that hold expert e are ``members[first[e] :
            first[e + 1]]``, in ascending order.
    """

    sets: Smalls
    weight: Floats
    first: Ints
    members: Smalls


class Table(NamedTuple):
    """Families of subsets of parts.

    Attributes:
        hits: int64 ``[2^parts]``, see ``hits``.
        costs: float64 ``[2^(2^parts)]``, see ``visit_costs``.
    """

    hits: Ints
    costs: Floats


@lru_cache(maxsize=8)
def hits(parts: int) -> Ints:
    """int64 ``[2^parts]``: the family of subsets that meet each mask; all subsets for mask 0 (no expert)."""
    masks = np.arange(1 << parts)
    meets = (masks[:, None] & masks[None, :]) != 0
    meets[0] = True
    return np.asarray((meets * (1 << masks.astype(np.int64))).sum(axis=1), dtype=np.int64)


@lru_cache(maxsize=8)
def _reachable(parts: int) -> tuple[int, ...]:
    """All families that are intersections of ``hits``: 168 of 65,536 for 4 parts (Dedekind's number of up-sets)."""
    found = {(1 << (1 << parts)) - 1}
    frontier = list(found)
    while frontier:
        fresh = {family & int(hit) for family in frontier for hit in hits(parts)} - found
        found |= fresh
        frontier = list(fresh)
    return tuple(sorted(found))


def visit_costs(prices: Floats, inside: Floats | float) -> Floats:
    """float64 ``[2^(2^parts)]``: expected price of the parts visited, by family, for a price per part.

    A token starts in each of the parts with probability ``inside``, float64 ``[parts]`` or the same for all, and a
    visit to that one is free; else every part visited costs. Only entries of families that can occur are filled.
    """
    parts = len(prices)
    at_home = np.broadcast_to(inside, parts)
    families = np.array(_reachable(parts), dtype=np.int64)
    subsets = np.arange(1 << parts)
    bits = (subsets[:, None] >> np.arange(parts)) & 1
    whole = bits @ prices
    allowed = (families[:, None] >> subsets) & 1 == 1
    costs = np.zeros(1 << (1 << parts))
    costs[families] = (1 - at_home.sum()) * np.where(allowed, whole, np.inf).min(axis=1)
    for home in range(parts):
        # With the home in it anyway, a subset costs what its other parts do.
        other = whole - bits[:, home] * prices[home]
        costs[families] += at_home[home] * np.where(allowed, other, np.inf).min(axis=1)
    return costs


@compiled
def tokens_of(sets: Smalls, weight: Floats, experts: int) -> Tokens:
    """List the sets that hold each expert."""
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
    return Tokens(sets, weight, first, members)


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
def price_alternatives(tokens: Tokens, table: Table, masks: Ints, alternatives: Floats) -> float:
    """Compute ``alternatives`` anew; returns the cost of the state."""
    sets, weight, hits, costs = tokens.sets, tokens.weight, table.hits, table.costs
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
    e: int, mask: int, tokens: Tokens, table: Table, masks: Ints, alternatives: Floats, before: Ints
) -> None:  # fmt: skip
    """Give e a new mask and bring ``alternatives`` of all that share a token with it up to date.

    ``before`` int64 ``[k]`` is room to work in.
    """
    sets, weight, hits, costs = tokens.sets, tokens.weight, table.hits, table.costs
    k = sets.shape[1]
    full = len(costs) - 1
    with_old, with_new = hits[masks[e]] & full, hits[mask] & full
    masks[e] = 0  # meets whatever there is: e's own part of each family is put in below
    for position in range(tokens.first[e], tokens.first[e + 1]):
        s = tokens.members[position]
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
    e: int, e_mask: int, f: int, f_mask: int, tokens: Tokens, table: Table, masks: Ints
) -> float:  # fmt: skip
    """What changing both costs beyond the sum of changing each alone."""
    sets, first, members, hits, costs = tokens.sets, tokens.first, tokens.members, table.hits, table.costs
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
        extra += tokens.weight[s] * (
            costs[others & new_e & new_f] - costs[others & new_e & old_f]
            - costs[others & old_e & new_f] + costs[others & old_e & old_f]
        )  # fmt: skip
    return extra
