"""Placements to migrate to, of which nothing is asked but that much moves. Pure."""

from __future__ import annotations

import math

import numpy as np

from moe_placement import Placement
from moe_placement.placement import EMPTY

_ATTEMPTS = 10_000


def exchanged(placement: Placement, share: float, random: np.random.Generator) -> Placement:
    """Shards trade experts, two at a time and at random, until at least ``share`` of all copies are new where they are.

    Every expert keeps its number of copies, and every shard its number of experts.

    Raises:
        ValueError: so many cannot be found, as with one shard, or where every shard holds everything.
    """
    slots, of_slot = placement.slots.copy(), placement.shard_of_slot
    held, before = placement.held.copy(), placement.held
    wanted = math.ceil(share * before.sum())
    for _ in range(_ATTEMPTS):
        if (held & ~before).sum() >= wanted:
            return Placement.of(slots, placement.shard_slots, placement.experts)
        layer = int(random.integers(placement.layers))
        one, other = random.integers(slots.shape[1], size=2)
        first, second = slots[layer, one], slots[layer, other]
        here, there = of_slot[one], of_slot[other]
        if EMPTY in (first, second) or held[layer, first, there] or held[layer, second, here]:
            continue
        slots[layer, one], slots[layer, other] = second, first
        held[layer, first, [here, there]] = False, True
        held[layer, second, [here, there]] = True, False
    raise ValueError(f"no {wanted} copies can trade places in {_ATTEMPTS} attempts")


def new_copies(current: Placement, target: Placement) -> np.ndarray:
    """int64 ``[shards]``: copies that each shard has to get."""
    return np.asarray((target.held & ~current.held).sum(axis=(0, 1)))
