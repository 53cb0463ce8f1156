"""What a token's visits cost, as a table lookup.

Parts (at most 4) are the groups of shards between which experts are split. An expert's copies are a bit mask of parts.
The subsets of parts that could serve a token are a *family*, a bit set over all 2^parts subsets: an expert with mask m
allows the subsets that meet m, and a token allows the intersection over its experts. The cost of a token is then one
lookup by its family: exact minimum covers, for any replication, in as many ANDs as the token has experts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_PARTS = 4


@lru_cache(maxsize=8)
def hits(parts: int) -> NDArray[np.int64]:
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


def visit_costs(prices: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[2, 2^(2^parts)]``: expected price of the parts visited, by family, for a price per part.

    Row 0: the token starts outside, every part visited costs. Row 1: it starts in one of the parts, equally likely
    each, and a visit to that one is free. Only entries of families that can occur are filled.
    """
    parts = len(prices)
    families = np.array(_reachable(parts), dtype=np.int64)
    subsets = np.arange(1 << parts)
    bits = (subsets[:, None] >> np.arange(parts)) & 1
    whole = bits @ prices
    allowed = (families[:, None] >> subsets) & 1 == 1
    costs = np.zeros((2, 1 << (1 << parts)))
    costs[0, families] = np.where(allowed, whole, np.inf).min(axis=1)
    for home in range(parts):
        # With the home in it anyway, a subset costs what its other parts do.
        other = whole - bits[:, home] * prices[home]
        costs[1, families] += np.where(allowed, other, np.inf).min(axis=1) / parts
    return costs
