"""One layer: experts to nodes by affinity and load, then inside each node evenly onto shards.

Groups of shards are split at most four ways at a time (``families.MAX_PARTS``), groups of groups first where there are
more nodes. On a single node the shards themselves are the parts. Called by ``solver`` for each layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe_placement.solver import families, part_kernel, region_kernel, seed_kernel, settle_kernel, shard_kernel
from moe_placement.solver.problem import UNLIMITED, LayerProblem
from moe_placement.solver.search import SMALL, Search
from moe_placement.solver.split_kernel import YIELD
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

QUICK = 1536
"""Sampled sets that a search looks at that is not thorough."""
EVEN = 0.002
"""Relative load above the mean at which a shard of a node is even enough."""
SWAPS = 200
"""At most so many swaps of copies inside a node for the sake of surges."""
FULL = 0.9
"""Load of one copy, relative to its shard's fair load, above which an expert gets another copy."""


def place_layer(problem: LayerProblem, topology: Topology) -> Bools:
    """From scratch: bool ``[experts, shards]``."""
    held = np.zeros((len(problem.load), topology.shards), dtype=bool)
    units = len(_units(topology))
    if units > families.MAX_PARTS:
        problem = replace(problem, sets=problem.sets[:QUICK], thorough=False)
    _split(problem, topology, 0, units, held, None, UNLIMITED)
    return held


def improve_layer(problem: LayerProblem, topology: Topology, current: Bools, budget: int) -> Bools:
    """From a current placement, with at most ``budget`` new copies (as far as the limits on copies allow it)."""
    held = current.copy()
    held[:, topology.slots == 0] = False
    if not len(problem.sets):
        _even_out_loads(problem, topology, held, budget)
        return held
    quick = replace(problem, sets=problem.sets[:QUICK], thorough=False)
    _split(quick, topology, 0, len(_units(topology)), held, current, budget)
    return held


def _even_out_loads(problem: LayerProblem, topology: Topology, held: Bools, budget: int) -> None:
    """Where only loads are known: over all shards at once, or inside each node if experts shall stay on theirs."""
    usable = topology.slots > 0
    regions = [np.flatnonzero(usable)]
    if problem.local:
        regions = [np.flatnonzero(usable & (topology.node_index == node)) for node in range(topology.nodes)]
        regions = [shards for shards in regions if len(shards)]
    spent = 0
    for number, shards in enumerate(regions):
        inner = np.ascontiguousarray(held[:, shards])
        present = inner.any(axis=1)
        load = problem.load * inner.sum(axis=1) / np.maximum(held.sum(axis=1), 1)
        least = np.where(present, np.minimum(problem.least, inner.sum(axis=1)), 0)
        spent += shard_kernel.even_out(
            load, inner, topology.slots[shards], topology.share[shards], least,
            (budget - spent) // (len(regions) - number), 0.0, True,
        )  # fmt: skip
        held[:, shards] = inner


@lru_cache(maxsize=8)
def _units(topology: Topology) -> tuple[Ints, ...]:
    """The groups of shards that experts are split between: nodes, or the shards of a single node."""
    usable = topology.slots > 0
    if topology.nodes > 1:
        groups = [np.flatnonzero((topology.node_index == node) & usable) for node in range(topology.nodes)]
        groups = [group for group in groups if len(group)]
        if len(groups) > 1:
            return tuple(groups)
    return tuple(np.array([shard]) for shard in np.flatnonzero(usable))


@dataclass(frozen=True, slots=True)
class _Parts:
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
    def of(cls, topology: Topology, begin: int, end: int) -> _Parts:
        count = min(families.MAX_PARTS, end - begin)
        chunks = [len(chunk) for chunk in np.array_split(np.arange(end - begin), count)]
        begins = (begin, *(begin + np.cumsum(chunks)).tolist())
        shards = tuple(np.concatenate(_units(topology)[b:e]) for b, e in pairwise(begins))
        part_of = np.full(topology.shards, -1, dtype=np.int64)
        for part, inside in enumerate(shards):
            part_of[inside] = part
        share = np.array([topology.share[inside].sum() for inside in shards])
        slots = np.array([topology.slots[inside].sum() for inside in shards])
        return cls(begins, shards, part_of, slots, share / share.sum())


_parts = lru_cache(maxsize=256)(_Parts.of)
"""Every layer is split alike."""


def _split(
    problem: LayerProblem, topology: Topology, begin: int, end: int, held: Bools, current: Bools | None, budget: int
) -> int:
    """Place a (sub)problem onto the units ``begin .. end - 1``, writing ``held``; returns the new copies made."""
    if end - begin == 1:
        return _onto_shards(problem, topology, _units(topology)[begin], held, current, budget)
    parts = _parts(topology, begin, end)
    count, widths = len(parts.shards), [len(inside) for inside in parts.shards]
    capacity = np.minimum(parts.slots, len(problem.load) * np.array(widths))
    slots_of = part_kernel.slots_by_parts(problem.load, problem.least, np.array(widths), FULL)
    fewest = part_kernel.fewest_parts(problem.load, problem.least, parts.share)
    masks = _start(problem, parts, capacity, slots_of, fewest, current)
    everywhere = int(slots_of[problem.least > 0, count].sum())
    if current is None and not problem.local and (capacity >= everywhere).all():
        masks[problem.least > 0] = (1 << count) - 1  # room for all of them in every part: no token leaves its own
    elif len(problem.sets):
        origin = masks.copy() if current is not None else np.full_like(masks, -1)
        search = Search.of(problem, topology, capacity, parts.share, slots_of, fewest)
        search.improve(masks, origin, budget if budget >= UNLIMITED else (budget + 1) // 2)
        if current is None and len(masks) <= SMALL:
            search.restart(masks, origin)
    if current is None and problem.covariance is None and count == end - begin:
        # Every part is a unit, and no surges have to be settled in it: one call for all takes a third of the time.
        return int(
            region_kernel.place_in_parts(
                problem.load, held, problem.least, problem.elsewhere, masks, parts.part_of, topology.slots,
                topology.share, EVEN, FULL,
            )
        )  # fmt: skip
    spent = 0
    for part, (first, last) in enumerate(pairwise(parts.begins)):
        part_budget = budget if budget >= UNLIMITED else (budget - spent) // (count - part)
        inner = _restrict(problem, masks, part, count)
        spent += _split(inner, topology, first, last, held, current, part_budget)
    return spent


def _start(
    problem: LayerProblem, parts: _Parts, capacity: Ints, slots_of: Ints, fewest: Ints, current: Bools | None
) -> Ints:  # fmt: skip
    """int64 ``[experts]`` masks to begin with: where experts are, or a greedy first split."""
    present = problem.least > 0
    if current is not None:
        bits = np.stack([current[:, inside].any(axis=1) for inside in parts.shards], axis=1)
        held = np.where(present, (bits << np.arange(len(parts.shards))).sum(axis=1), 0).astype(np.int64)
        part_kernel.admit(problem.load, present, slots_of, capacity, parts.share, held)
        return held
    masks = np.zeros(len(problem.load), dtype=np.int64)
    affinity = 1.0 if len(problem.sets) else 0.0
    seed_kernel.seed_masks(
        problem.pairs, problem.load, present, fewest, slots_of, capacity, parts.share, affinity, masks
    )
    return masks


def _restrict(problem: LayerProblem, masks: Ints, part: int, parts: int) -> LayerProblem:
    """The part's own problem: its experts, with their share of load, and what of each set is served there."""
    load, least, elsewhere, weight = part_kernel.shares_of_part(
        problem.load, problem.least, problem.elsewhere, masks, part
    )
    weight = weight if problem.weight is None else weight * problem.weight
    sets = problem.sets
    if len(sets):
        sets = part_kernel.sets_of_part(sets, masks, part, parts)
    return replace(problem, load=load, least=least, sets=sets, weight=weight, elsewhere=elsewhere)


def _onto_shards(
    problem: LayerProblem, topology: Topology, shards: Ints, held: Bools, current: Bools | None, budget: int
) -> int:
    """Copies of one unit's experts onto its shards; returns the new copies made."""
    share = topology.share[shards]
    inner = np.ascontiguousarray(held[:, shards])
    made = region_kernel.place(
        problem.load, inner, problem.least, topology.slots[shards], share, budget, current is None, EVEN, FULL
    )
    if current is None and problem.covariance is not None and problem.risk > 0:
        _settle(problem, inner, share)
    held[:, shards] = inner
    return made


def _settle(problem: LayerProblem, inner: Bools, share: Floats) -> None:
    """Spread what surges together over the shards of one unit; ``inner`` bool ``[experts, shards]`` is changed."""
    present = np.flatnonzero(problem.least)
    held = inner[present]
    copies = held.sum(axis=1)
    weight = 1.0 / np.maximum(copies, 1)
    part = problem.load[present] * weight
    yielding = np.where(copies + problem.elsewhere[present] > 1, YIELD * part, 0.0)
    covariance = problem.covariance_among(present)
    settle_kernel.settle(part, weight, yielding, held, share, covariance, problem.risk, SWAPS)
    inner[present] = held
