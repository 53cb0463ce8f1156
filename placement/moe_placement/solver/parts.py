"""The parts that a region is split into: which they are, what experts need of them, and what falls to one of them of
each expert's load and copies, and of each token.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.solver.constants import MAX_PARTS
from moe_placement.solver.cover import popcount
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@lru_cache(maxsize=8)
def units(topology: Topology) -> tuple[Ints, ...]:
    """The groups of shards that experts are split between: nodes, or the shards of a single node."""
    usable = topology.slots > 0
    if topology.nodes > 1:
        groups = [np.flatnonzero((topology.node_index == node) & usable) for node in range(topology.nodes)]
        groups = [group for group in groups if len(group)]
        if len(groups) > 1:
            return tuple(groups)
    return tuple(np.array([shard]) for shard in np.flatnonzero(usable))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a group of units is split into: neighbouring units, in at most ``MAX_PARTS`` parts of about equal size.

    Attributes:
        begins: the first unit of each part, and the end of the last.
        shards: of each part.
        part_of: int64 ``[shards]``, the part that each shard is in; -1 for none.
        slots: int64 ``[parts]``.
        share: float64 ``[parts]``, what part of the group's load each should carry.
    """

    begins: tuple[int, ...]
    shards: tuple[Ints, ...]
    part_of: Ints
    slots: Ints
    share: Floats

    @classmethod
    def of(cls, topology: Topology, begin: int, end: int) -> Parts:
        count = min(MAX_PARTS, end - begin)
        chunks = [len(chunk) for chunk in np.array_split(np.arange(end - begin), count)]
        begins = (begin, *(begin + np.cumsum(chunks)).tolist())
        shards = tuple(np.concatenate(units(topology)[b:e]) for b, e in pairwise(begins))
        part_of = np.full(topology.shards, -1, dtype=np.int64)
        for part, inside in enumerate(shards):
            part_of[inside] = part
        share = np.array([topology.share[inside].sum() for inside in shards])
        slots = np.array([topology.slots[inside].sum() for inside in shards])
        return cls(begins, shards, part_of, slots, share / share.sum())


parts_of = lru_cache(maxsize=256)(Parts.of)
"""Every layer is split alike."""


@compiled
def slots_by_parts(load: Floats, least: Ints, widths: Ints, full: float) -> Ints:
    """int64 ``[experts, parts + 1]``: slots an expert needs in each of its parts, by the number of its parts.

    One; more where a copy would carry more than ``full`` of a shard's fair load, or where ``least`` asks for more
    copies than parts. ``widths`` int64 ``[parts]`` are shards.
    """
    experts, parts = len(load), len(widths)
    most, narrowest = max(full * load.sum() / widths.sum(), 1e-300), float(widths.min())
    slots = np.ones((experts, parts + 1), np.int64)
    for e in range(experts):
        for number in range(parts + 1):
            count = max(number, 1)
            # As floats: a load far beyond ``most`` is no int64.
            by_load = np.ceil(load[e] / count / most)
            by_least = np.ceil(least[e] / count)
            slots[e, number] = int(max(1.0, min(max(by_load, by_least), narrowest)))
    return slots


@compiled
def fewest_parts(load: Floats, least: Ints, share: Floats) -> Ints:
    """int64 ``[experts]``: parts each expert must be in: for its copies, or because its load is too much for one."""
    fewest, most = least.copy(), max(load.sum(), 1e-300) * share.max()
    for e in range(len(load)):
        if least[e] > 0:
            heavy = np.ceil(load[e] / most - 1e-9)
            fewest[e] = int(min(max(float(least[e]), heavy), float(len(share))))
        fewest[e] = min(fewest[e], len(share))
    return fewest


@compiled
def admit(load: Floats, present: Bools, slots_of: Ints, capacity: Ints, share: Floats, masks: Ints) -> None:
    """Give each expert that is new in this region (moved here by the split above) a part: where there is room, the one
    that is fullest least, else the one with most room.
    """
    experts, parts = len(load), len(capacity)
    free, filled = capacity.copy(), np.zeros(parts)
    for e in range(experts):
        count = popcount(masks[e])
        for p in range(parts):
            if (masks[e] >> p) & 1:
                free[p] -= slots_of[e, count]
                filled[p] += load[e] / count
    for e in range(experts):
        if not present[e] or masks[e] != 0:
            continue
        best = 0
        for p in range(1, parts):
            both = min(free[p], free[best]) >= slots_of[e, 1]
            if filled[p] / share[p] < filled[best] / share[best] if both else free[p] > free[best]:
                best = p
        masks[e] = 1 << best
        free[best] -= slots_of[e, 1]
        filled[best] += load[e]


@compiled
def shares_of_part(
    load: Floats, least: Ints, elsewhere: Ints, masks: Ints, part: int
) -> tuple[Floats, Ints, Ints, Floats]:  # fmt: skip
    """By expert: its load in the part, the copies that it must have there, its copies in all other regions, and what
    fraction of it the part is given; all 0 for an expert that is not in the part.
    """
    experts = len(load)
    part_load, weight = np.zeros(experts), np.zeros(experts)
    part_least, beyond = np.zeros(experts, np.int64), np.zeros(experts, np.int64)
    for e in range(experts):
        if (masks[e] >> part) & 1:
            copies = popcount(masks[e])
            part_load[e], weight[e] = load[e] / copies, 1.0 / copies
            part_least[e] = max(1, -(-least[e] // copies))
            beyond[e] = copies - 1 + elsewhere[e]
    return part_load, part_least, beyond, weight


@compiled
def sets_of_part(sets: Ints, masks: Ints, part: int, parts: int) -> Ints:
    """int64 ``[m, k]``: of each set ``[n, k]`` the experts that the part serves, the others -1; sets of one or none of
    them are left out, since they cannot be torn apart.

    A token whose expert is in several parts is served where its home is (token i's is i modulo parts) or where a single
    copy takes it anyway, in the first of these, else in the first part that has the expert.
    """
    served, rows = np.empty_like(sets), 0
    for i in range(len(sets)):
        visited = 1 << (i % parts)
        for e in sets[i]:
            if e >= 0 and popcount(masks[e]) == 1:
                visited |= masks[e]
        count = 0
        for c in range(sets.shape[1]):
            e = sets[i, c]
            served[rows, c] = -1
            if e >= 0:
                choice = masks[e] & visited
                if choice == 0:
                    choice = masks[e]
                if choice & -choice == 1 << part:
                    served[rows, c] = e
                    count += 1
        if count > 1:
            rows += 1
    return served[:rows].copy()
