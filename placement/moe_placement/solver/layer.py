"""One layer: experts to nodes by affinity and load, then inside each node evenly onto shards.

Groups of shards are split at most four ways at a time, groups of groups first where there are more nodes. On a single
node the shards themselves are the parts. Called by ``solver`` for each layer.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from moe_placement.solver import level, place
from moe_placement.solver.constants import FEW, MAX_PARTS, QUICK, SHIFTABLE, UNLIMITED
from moe_placement.solver.problem import (
    LayerProblem,
    Parts,
    admit,
    dispatched,
    even_shares,
    fewest_parts,
    parts_of,
    seen_shares,
    sets_of_part,
    shares_of_part,
    slots_by_parts,
    units,
)
from moe_placement.solver.split import Search, seed_masks
from moe_placement.topology import Topology

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


def place_layer(problem: LayerProblem, topology: Topology) -> Bools:
    """From scratch: bool ``[experts, shards]``."""
    held = np.zeros((len(problem.load), topology.shards), dtype=bool)
    count = len(units(topology))
    if count > MAX_PARTS:
        problem = _quick(problem)
    _split(problem, topology, 0, count, held, None, UNLIMITED)
    return held


def improve_layer(problem: LayerProblem, topology: Topology, current: Bools, budget: int) -> Bools:
    """From a current placement, with at most ``budget`` new copies (as far as the limits on copies allow it)."""
    held = current.copy()
    held[:, topology.slots == 0] = False
    if not len(problem.sets):
        _even_out_loads(problem, topology, held, budget)
        return held
    _split(_quick(problem), topology, 0, len(units(topology)), held, current, budget)
    return held


def _quick(problem: LayerProblem) -> LayerProblem:
    return replace(problem, sets=problem.sets[:QUICK], sampled=min(problem.sampled, QUICK), thorough=False)


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
        spent += level.even_out(
            load, inner, topology.slots[shards], topology.share[shards], least,
            (budget - spent) // (len(regions) - number), 0.0, True,
        )  # fmt: skip
        held[:, shards] = inner


def _split(
    problem: LayerProblem, topology: Topology, begin: int, end: int, held: Bools, current: Bools | None, budget: int
) -> int:
    """Place a (sub)problem onto the units ``begin .. end - 1``, writing ``held``; returns the new copies made."""
    if end - begin == 1:
        return _onto_shards(problem, topology, units(topology)[begin], held, current, budget)
    split = parts_of(topology, begin, end)
    count, widths = len(split.shards), np.array([len(inside) for inside in split.shards])
    capacity = np.minimum(split.slots, len(problem.load) * widths)
    most = place.largest_copy(problem.load, problem.least, int(split.slots.sum()), int(widths.sum()))
    slots_of = slots_by_parts(problem.load, problem.least, widths, most)
    fewest = fewest_parts(problem.load, problem.least, split.share)
    masks = _start(problem, split, capacity, slots_of, fewest, current)
    everywhere = int(slots_of[problem.least > 0, count].sum())
    if current is None and not problem.local and (capacity >= everywhere).all():
        masks[problem.least > 0] = (1 << count) - 1  # room for all of them in every part: no token leaves its own
    elif len(problem.sets):
        origin = masks.copy() if current is not None else np.full_like(masks, -1)
        search = Search.of(problem, topology, split, capacity, slots_of, fewest)
        if search.has_tokens:
            search.improve(masks, origin, budget if budget >= UNLIMITED else (budget + 1) // 2)
            if current is None and len(masks) <= FEW:
                search.restart(masks, origin)
    if current is None and problem.covariance is None and not len(problem.sets) and count == end - begin:
        # Every part is a unit, and no surges have to be spread in it: one call for all takes a third of the time.
        return int(
            place.place_in_parts(
                problem.load, held, problem.least, problem.elsewhere, masks, split.part_of, topology.slots,
                topology.share,
            )
        )  # fmt: skip
    spent = 0
    inners = _restrict(problem, masks, split, topology)
    for part, (inner, (first, last)) in enumerate(zip(inners, pairwise(split.begins), strict=True)):
        part_budget = budget if budget >= UNLIMITED else (budget - spent) // (count - part)
        spent += _split(inner, topology, first, last, held, current, part_budget)
    return spent


def _start(
    problem: LayerProblem, split: Parts, capacity: Ints, slots_of: Ints, fewest: Ints, current: Bools | None
) -> Ints:  # fmt: skip
    """int64 ``[experts]`` masks to begin with: where experts are, or a greedy first split."""
    present = problem.least > 0
    if current is not None:
        bits = np.stack([current[:, inside].any(axis=1) for inside in split.shards], axis=1)
        held = np.where(present, (bits << np.arange(len(split.shards))).sum(axis=1), 0).astype(np.int64)
        admit(problem.load, present, slots_of, capacity, split.share, held)
        return held
    masks = np.zeros(len(problem.load), dtype=np.int64)
    affinity = 1.0 if len(problem.sets) else 0.0
    seed_masks(problem.pairs, problem.load, present, fewest, slots_of, capacity, split.share, affinity, masks)
    return masks


def _restrict(problem: LayerProblem, masks: Ints, split: Parts, topology: Topology) -> list[LayerProblem]:
    """Each part's own problem: its experts, with their share of load, and what of each set is served there.

    Which part serves a token is not for the copies to share evenly: dispatch goes where the token is anyway.
    """
    sets, count = problem.sets, len(split.shards)
    if len(sets):
        part_of_pair = dispatched(sets, masks, split, topology)
        served = seen_shares(sets, part_of_pair, masks, count)
    else:
        part_of_pair, served = sets, even_shares(masks, count)
    found = []
    for part in range(count):
        load, least, elsewhere = shares_of_part(problem.load, problem.least, problem.elsewhere, masks, served, part)
        weight = served[:, part] if problem.weight is None else served[:, part] * problem.weight
        inside = sets_of_part(sets, part_of_pair, part) if len(sets) else sets
        found.append(replace(problem, load=load, least=least, sets=inside, weight=weight, elsewhere=elsewhere))
    return found


def _onto_shards(
    problem: LayerProblem, topology: Topology, shards: Ints, held: Bools, current: Bools | None, budget: int
) -> int:
    """Copies of one unit's experts onto its shards; returns the new copies made."""
    share = topology.share[shards]
    inner = np.ascontiguousarray(held[:, shards])
    made = place.place(problem.load, inner, problem.least, topology.slots[shards], share, budget, current is None)
    if current is None and problem.covariance is not None and problem.shard_risk > 0:
        _spread_surges(problem, inner, share)
    held[:, shards] = inner
    return made


def _spread_surges(problem: LayerProblem, inner: Bools, share: Floats) -> None:
    """Spread what surges together over the shards of one unit; ``inner`` bool ``[experts, shards]`` is changed."""
    present = np.flatnonzero(problem.least)
    held = inner[present]
    copies = held.sum(axis=1)
    weight = 1.0 / np.maximum(copies, 1)
    part = problem.load[present] * weight
    shiftable = np.where(copies + problem.elsewhere[present] > 1, SHIFTABLE * part, 0.0)
    covariance = problem.covariance_among(present)
    place.spread_surges(place.Surges(part, weight, shiftable, share, covariance, problem.shard_risk), held)
    inner[present] = held
