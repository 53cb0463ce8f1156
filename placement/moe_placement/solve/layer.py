"""One layer: experts to nodes by affinity and load, then inside each node evenly onto shards.

Groups of shards are split at most four ways at a time (``families.MAX_PARTS``), groups of groups first where there are
more nodes. On a single node the shards themselves are the parts. Called by ``solver`` for each layer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from moe_placement.solve import families, fill_kernel, seed_kernel, settle_kernel, shard_kernel
from moe_placement.solve.problem import LayerProblem
from moe_placement.solve.search import SMALL, UNLIMITED, Search
from moe_placement.solve.split_kernel import YIELD
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
    units = _units(topology)
    if len(units) > families.MAX_PARTS:
        problem = replace(problem, sets=problem.sets[:QUICK], thorough=False)
    _split(problem, topology, units, held, None, UNLIMITED)
    return held


def improve_layer(problem: LayerProblem, topology: Topology, current: Bools, budget: int) -> Bools:
    """From a current placement, with at most ``budget`` new copies (as far as the limits on copies allow it)."""
    held = current.copy()
    held[:, topology.slots == 0] = False
    if not len(problem.sets):
        _even_out_loads(problem, topology, held, budget)
        return held
    quick = replace(problem, sets=problem.sets[:QUICK], thorough=False)
    _split(quick, topology, _units(topology), held, current, budget)
    return held


def _even_out_loads(problem: LayerProblem, topology: Topology, held: Bools, budget: int) -> None:
    """Where only loads are known: over all shards at once, or inside each node if experts shall stay on theirs."""
    regions = [np.arange(topology.shards)]
    if problem.local:
        regions = [np.flatnonzero(topology.node_index == node) for node in range(topology.nodes)]
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


def _units(topology: Topology) -> list[Ints]:
    """The groups of shards that experts are split between: nodes, or the shards of a single node."""
    usable = topology.slots > 0
    if topology.nodes > 1:
        groups = [np.flatnonzero((topology.node_index == node) & usable) for node in range(topology.nodes)]
        groups = [group for group in groups if len(group)]
        if len(groups) > 1:
            return groups
    return [np.array([shard]) for shard in np.flatnonzero(usable)]


def _split(
    problem: LayerProblem, topology: Topology, units: list[Ints], held: Bools, current: Bools | None, budget: int
) -> int:
    """Place a (sub)problem onto units, writing ``held``; returns the new copies made."""
    if len(units) == 1:
        return _onto_shards(problem, topology, units[0], held, current, budget)
    parts = _group(units)
    shards = [np.concatenate(group) for group in parts]
    capacity = np.array([min(int(topology.slots[s].sum()), len(problem.load) * len(s)) for s in shards])
    share = np.array([topology.share[s].sum() for s in shards])
    share /= share.sum()
    slots_of = _slots_of(problem, [len(s) for s in shards])
    fewest = _fewest(problem, share)
    masks = _start(problem, shards, capacity, share, slots_of, fewest, current)
    origin = masks.copy() if current is not None else np.full_like(masks, -1)
    spendable = budget if budget >= UNLIMITED else (budget + 1) // 2
    everywhere = int(slots_of[problem.least > 0, len(parts)].sum())
    if current is None and not problem.local and (capacity >= everywhere).all():
        masks[problem.least > 0] = (1 << len(parts)) - 1  # room for all of them in every part: no token leaves its own
    elif len(problem.sets):
        search = Search.of(problem, topology, capacity, share, slots_of, fewest)
        search.improve(masks, origin, spendable)
        if current is None and len(masks) <= SMALL:
            search.restart(masks, origin)
    spent = 0
    for number, group in enumerate(parts):
        part_budget = budget if budget >= UNLIMITED else (budget - spent) // (len(parts) - number)
        spent += _split(_restrict(problem, masks, number), topology, group, held, current, part_budget)
    return spent


def _group(units: list[Ints]) -> list[list[Ints]]:
    """Units in at most ``MAX_PARTS`` groups of about equal size, neighbours together."""
    count = min(families.MAX_PARTS, len(units))
    return [[units[i] for i in chunk] for chunk in np.array_split(np.arange(len(units)), count)]


def _slots_of(problem: LayerProblem, shards: list[int]) -> Ints:
    """int64 ``[experts, parts + 1]``: slots an expert needs in each of its parts, by the number of its parts.

    One, more where a copy would be too much for one shard or where ``least`` asks for more copies than parts.
    """
    parts = len(shards)
    fair = problem.load.sum() / sum(shards)
    count = np.maximum(np.arange(parts + 1), 1)
    by_load = np.ceil(problem.load[:, None] / count / max(FULL * fair, 1e-300))
    by_least = np.ceil(problem.least[:, None] / count)
    needed: Ints = np.clip(np.maximum(by_load, by_least), 1, min(shards)).astype(np.int64)
    return needed


def _start(
    problem: LayerProblem, shards: list[Ints], capacity: Ints, share: Floats, slots_of: Ints, fewest: Ints,
    current: Bools | None,
) -> Ints:  # fmt: skip
    """int64 ``[experts]`` masks to begin with: where experts are, or a greedy first split."""
    present = problem.least > 0
    if current is not None:
        bits = np.stack([current[:, s].any(axis=1) for s in shards], axis=1)
        return np.where(present, (bits << np.arange(len(shards))).sum(axis=1), 0).astype(np.int64)
    masks = np.zeros(len(problem.load), dtype=np.int64)
    affinity = 1.0 if len(problem.sets) else 0.0
    seed_kernel.seed_masks(problem.pairs, problem.load, present, fewest, slots_of, capacity, share, affinity, masks)
    return masks


def _fewest(problem: LayerProblem, share: Floats) -> Ints:
    """int64 ``[experts]``: parts each expert must be in: for its copies, or because its load is too much for one."""
    heavy = np.ceil(problem.load / max(float(problem.load.sum()), 1e-300) / float(share.max()) - 1e-9)
    wanted = np.maximum(problem.least, np.where(problem.least > 0, heavy, 0).astype(np.int64))
    return np.minimum(wanted, len(share))


def _restrict(problem: LayerProblem, masks: Ints, part: int) -> LayerProblem:
    """The part's own problem: its experts, with their share of load, and what of each set is served there.

    A token whose expert is in several parts is served where its home is (token i's is i modulo parts), else where a
    single copy takes it anyway, else in the first.
    """
    copies = np.bitwise_count(masks).astype(np.int64)
    here = (masks >> part) & 1 == 1
    divisor = np.maximum(copies, 1)
    least = np.where(here, np.maximum(1, -(-problem.least // divisor)), 0)
    load = np.where(here, problem.load / divisor, 0.0)
    sets = problem.sets
    if len(sets):
        known = sets >= 0
        of_pair = np.where(known, masks[sets], 0)
        single = np.where(np.bitwise_count(of_pair) == 1, of_pair, 0)
        visited = np.bitwise_or.reduce(single, axis=1) | (1 << (np.arange(len(sets)) % (int(masks.max()).bit_length())))
        choice = np.where(of_pair & visited[:, None], of_pair & visited[:, None], of_pair)
        served = known & ((choice & -choice) >> part & 1 == 1)
        sets = np.where(served, sets, -1)
        sets = sets[(sets >= 0).sum(axis=1) > 1]
    weight = here / divisor
    covariance = None if problem.covariance is None else problem.covariance * np.outer(weight, weight)
    elsewhere = np.where(here, copies - 1 + problem.elsewhere, 0)
    return replace(problem, load=load, least=least, sets=sets, covariance=covariance, elsewhere=elsewhere)


def _onto_shards(
    problem: LayerProblem, topology: Topology, shards: Ints, held: Bools, current: Bools | None, budget: int
) -> int:
    """Copies of one unit's experts onto its shards; returns the new copies made."""
    slots, share = topology.slots[shards], topology.share[shards]
    inner = np.ascontiguousarray(held[:, shards])
    present = problem.least > 0
    inner[~present] = False
    had = inner.copy()
    fair = problem.load.sum() / len(shards)
    need = np.maximum(problem.least, np.ceil(problem.load / max(FULL * fair, 1e-300)).astype(np.int64) * present)
    need = np.minimum(need, len(shards))
    _trim(need, problem, int(slots.sum()))
    if current is None:
        fill_kernel.replicate(problem.load, need, int(slots.sum() - need.sum()), len(shards))
    else:
        need = np.where(need > inner.sum(axis=1), problem.least, need)
    fill_kernel.fill(problem.load, inner, need, slots, share)
    made = int((inner & ~had).sum())
    made += shard_kernel.even_out(
        problem.load, inner, slots, share, problem.least, max(0, budget - made), EVEN, current is not None
    )
    if current is None and problem.covariance is not None and problem.risk > 0:
        _settle(problem, problem.covariance, inner, share)
    held[:, shards] = inner
    return made


def _settle(problem: LayerProblem, covariance: Floats, inner: Bools, share: Floats) -> None:
    """Spread what surges together over the shards of one unit; ``inner`` bool ``[experts, shards]`` is changed."""
    copies = inner.sum(axis=1)
    part = problem.load / np.maximum(copies, 1)
    yielding = np.where(copies + problem.elsewhere > 1, YIELD * part, 0.0)
    weight = 1.0 / np.maximum(copies, 1)
    settle_kernel.settle(part, weight, yielding, inner, share, covariance, problem.risk, SWAPS)


def _trim(need: Ints, problem: LayerProblem, room: int) -> None:
    """Give up copies wanted for load, least loaded first, until what is needed fits."""
    while need.sum() > room:
        spare = np.flatnonzero(need > problem.least)
        if not len(spare):
            return
        need[spare[np.argmin(problem.load[spare] / need[spare])]] -= 1
