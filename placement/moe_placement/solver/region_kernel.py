"""Copies of one region's experts onto its shards: how many of each, where, and then levelled.

Array arguments: load float64 [experts] of the region; held bool [experts, shards], changed in place; least int64
[experts] copies that each must have, 0 for an expert that is not of the region; slots int64 [shards]; share float64
[shards] (what each should carry, in proportion).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from moe_placement.compiled import compiled
from moe_placement.solver.fill_kernel import fill, replicate
from moe_placement.solver.part_kernel import shares_of_part
from moe_placement.solver.problem import UNLIMITED
from moe_placement.solver.shard_kernel import even_out

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@compiled
def place(
    load: Floats, held: Bools, least: Ints, slots: Ints, share: Floats, budget: int, fresh: bool, even: float,
    full: float,
) -> int:  # fmt: skip
    """Complete what is held, or place anew if ``fresh``, which fills all slots; returns the new copies made.

    Args:
        budget: of new copies beyond those that ``least`` asks for.
        even: relative load above the mean at which a shard is even enough.
        full: load of one copy, relative to its shard's fair load, above which its expert gets another.
    """
    experts, shards = held.shape
    for e in range(experts):
        if least[e] == 0:
            held[e] = False
    had = held.copy()
    wanted = np.minimum(np.maximum(least, _for_load(load, least, full * load.sum() / shards)), shards)
    _trim(wanted, load, least, slots.sum())
    if fresh:
        replicate(load, wanted, slots.sum() - wanted.sum(), shards)
    else:
        for e in range(experts):
            if wanted[e] > held[e].sum():
                wanted[e] = least[e]
    fill(load, held, wanted, slots, share)
    made = (held & ~had).sum()
    return int(made + even_out(load, held, slots, share, least, max(0, budget - made), even, not fresh))


@compiled
def place_in_parts(
    load: Floats, held: Bools, least: Ints, elsewhere: Ints, masks: Ints, part_of: Ints, slots: Ints, share: Floats,
    even: float, full: float,
) -> int:  # fmt: skip
    """Place what each part of a split is given on its shards, anew; ``part_of`` int64 ``[shards]``, -1 for no part."""
    made = 0
    for part in range(part_of.max() + 1):
        part_load, part_least, _, _ = shares_of_part(load, least, elsewhere, masks, part)
        own, shards = np.flatnonzero(part_least), np.flatnonzero(part_of == part)
        inner = np.zeros((len(own), len(shards)), np.bool_)
        made += place(part_load[own], inner, part_least[own], slots[shards], share[shards], UNLIMITED, True, even, full)
        for row in range(len(own)):
            for column in range(len(shards)):
                held[own[row], shards[column]] = inner[row, column]
    return made


@compiled
def _for_load(load: Floats, least: Ints, most: float) -> Ints:
    """Copies at which none carries more than ``most``."""
    copies = np.zeros(len(load), np.int64)
    for e in range(len(load)):
        if least[e] > 0:
            copies[e] = int(np.ceil(load[e] / max(most, 1e-300)))
    return copies


@compiled
def _trim(copies: Ints, load: Floats, least: Ints, room: int) -> None:
    """Give up copies wanted for load, least loaded first, until what is wanted fits or nothing can be given up."""
    excess = copies.sum() - room
    while excess > 0:
        lightest = -1
        for e in range(len(copies)):
            if copies[e] > least[e] and (lightest < 0 or load[e] / copies[e] < load[lightest] / copies[lightest]):
                lightest = e
        if lightest < 0:
            return
        copies[lightest] -= 1
        excess -= 1
