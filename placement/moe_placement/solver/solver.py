"""``solve``: statistics and a topology in, a plan out. Layers are independent and run in threads."""

from __future__ import annotations

import math
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import copies_of
from moe_placement.errors import InfeasiblePlacementError, MismatchError
from moe_placement.expected import expected_figures
from moe_placement.initial import balanced_placement
from moe_placement.placement import EMPTY, Placement
from moe_placement.simulation import Figures, judge, summarise
from moe_placement.solver.limits import Limits
from moe_placement.solver.nodes import copies_by_node, spread_over_nodes
from moe_placement.solver.plan import Plan, _like
from moe_placement.solver.problem import UNLIMITED, LayerProblem
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology, h100_nodes

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

_INTERPRETED_SAMPLES = 256
"""Sampled sets per layer where Numba is missing."""

_JUDGED = 2048
"""Sampled sets that a layer's figures are predicted on."""


def solve(
    statistics: RoutingStatistics, topology: Topology, current: Placement | None = None, limits: Limits | None = None
) -> Plan:
    """Place experts so that a modelled step takes least time, within the limits.

    Without ``current`` the placement is made from scratch; with it, the current one is improved by at most
    ``limits.max_moved_slots`` new copies, and no layer gets worse under the cost model. Copies on shards that have no
    slots in ``topology`` (draining, dead or removed) are made anew elsewhere before anything is improved.

    Raises:
        InfeasiblePlacementError: the limits cannot be met; the message names the limit and by how much.
        MismatchError: the current placement is of another model.
    """
    limits = limits or Limits()
    _check(statistics, topology, current, limits)
    _compile()
    return _solve(statistics, topology, current, limits)


@cache
def _compile() -> None:
    """Call every kernel once, before any clock runs: in a fresh environment Numba compiles for longer than a limit may
    be, and which layers were reached would depend on that.
    """
    from moe_placement.compiled import COMPILED  # noqa: PLC0415 - Numba is loaded only to solve

    if not COMPILED:
        return
    known = RoutingStatistics.of_ids([[[0, 1]], [[1, 2]], [[2, 3]], [[3, 0]]], 4, windows=2)
    for statistics in (known, RoutingStatistics.of_loads(known.load)):
        for topology in (h100_nodes(2, 2, 2), h100_nodes(1, 2, 3)):
            first = _solve(statistics, topology, None, Limits(workers=1)).placement
            _solve(statistics, topology, first, Limits(workers=1))


def _solve(statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits) -> Plan:
    started = time.monotonic()
    job = _Job.of(statistics, topology, current, limits, started + limits.time_limit)
    results = job.run_all(statistics.shape.layers)
    held = np.stack([result.held for result in results])
    baseline = None if job.fallback is None else _written(job.fallback, topology, current)
    before = None if current is None else summarise(result.before for result in results if result.before is not None)
    return Plan(
        _written(held, topology, current), current, topology, baseline, before,
        summarise(result.after for result in results),
        tuple(layer for layer, result in enumerate(results) if not result.reached), time.monotonic() - started,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Result:
    held: Bools
    before: Figures | None
    after: Figures
    reached: bool


@dataclass(frozen=True, slots=True)
class _Job:
    """What the threads share."""

    statistics: RoutingStatistics
    topology: Topology
    limits: Limits
    load: Floats
    sample: NDArray[np.int64]
    fallback: Bools | None
    before: Bools | None
    budgets: NDArray[np.int64]
    deadline: float

    @classmethod
    def of(
        cls, statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits,
        deadline: float,
    ) -> _Job:  # fmt: skip
        from moe_placement.compiled import COMPILED  # noqa: PLC0415 - Numba is loaded only to solve

        layers, experts = statistics.shape.layers, statistics.shape.experts
        total = statistics.load.sum(axis=1, keepdims=True)
        load = np.where(total > 0, statistics.load / np.where(total > 0, total, 1), 1.0 / experts)
        most = limits.samples if COMPILED else min(limits.samples, _INTERPRETED_SAMPLES)
        sample = statistics.sample.ids[:most].astype(np.int64)
        before = None if current is None else _like(current.held, topology.shards)
        allowed = limits.moved_slots(topology.costs.bytes_per_expert) if current is not None else None
        fallback = None if before is None else _repaired(before, topology, limits.min_copies, load, allowed)
        budgets = _budgets(allowed, fallback, before, layers)
        return cls(statistics, topology, limits, load, sample, fallback, before, budgets, deadline)

    def run_all(self, layers: int) -> list[_Result]:
        """All layers, in threads that each take the next one: to wake this one for each would cost more than a short
        layer does.
        """
        results: dict[int, _Result] = {}
        waiting = iter(range(layers))

        def run_next(_: int) -> None:
            for layer in waiting:
                results[layer] = self.run(layer)

        # A first placement from loads alone is over sooner than threads hand the interpreter to each other.
        workers = self.limits.workers if len(self.sample) or self.before is not None else 1
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run_next, range(workers)))
        return [results[layer] for layer in range(layers)]

    def run(self, layer: int) -> _Result:
        """The best of: what is, and what the search finds, if its turn comes in time."""
        from moe_placement.solver.layer import improve_layer, place_layer  # noqa: PLC0415 - as above

        base = None if self.fallback is None else self.fallback[layer]
        before = None if base is None else self._judge(layer, base)
        if self._late():
            held = self._by_load(layer) if base is None else base
            return _Result(held, before, before or self._judge(layer, held), False)
        experts = self.statistics.shape.experts
        problem = LayerProblem(
            load=np.ascontiguousarray(self.load[layer]),
            sets=np.ascontiguousarray(self.sample[:, layer]),
            pairs=self.statistics.pairs[layer],
            least=np.full(experts, self.limits.min_copies, dtype=np.int64),
            elsewhere=np.zeros(experts, dtype=np.int64),
            local=self.limits.node_locality,
            seed=self.limits.seed + layer,
            covariance=self.statistics.steadied_covariance(layer),
            risk=self.limits.risk,
            deadline=self.deadline,
        )
        if base is None or before is None:
            held = place_layer(problem, self.topology)
            held = held if self._fits(held, layer) else self._by_load(layer)
            return _Result(held, None, self._judge(layer, held), not self._late())
        budget = int(self.budgets[layer])
        found = self._completed(improve_layer(problem, self.topology, base, budget), layer)
        beyond = self._made(found, layer) - budget
        if 0 < beyond <= budget:  # parts of a split round what they may make
            found = self._completed(improve_layer(problem, self.topology, base, budget - beyond), layer)
        if self._fits(found, layer):
            figures = self._judge(layer, found)
            if figures.seconds < before.seconds:
                return _Result(found, before, figures, not self._late())
        return _Result(base, before, before, not self._late())

    def _late(self) -> bool:
        return time.monotonic() > self.deadline

    def _by_load(self, layer: int) -> Bools:
        """A layer that keeps the hard limits whatever they are, balanced as far as loads alone can tell; at once."""
        from moe_placement.solver.fill_kernel import fill, replicate  # noqa: PLC0415 - Numba is loaded only to solve

        load, slots = self.load[layer], self.topology.slots
        held = np.zeros((len(load), len(slots)), dtype=bool)
        copies = np.full(len(load), self.limits.min_copies, dtype=np.int64)
        replicate(load, copies, int(slots.sum()) - int(copies.sum()), int((slots > 0).sum()))
        if fill(load, held, copies, slots, self.topology.share) > 0:
            held = balanced_placement(1, len(load), self.topology.shard_slots, self.limits.min_copies).held[0].copy()
        spread_over_nodes(held, self.topology, self.limits.min_copies, UNLIMITED)
        return held

    def _completed(self, held: Bools, layer: int) -> Bools:
        """With copies of experts that a split found no room for, where there is any."""
        from moe_placement.solver.fill_kernel import fill  # noqa: PLC0415 - Numba is loaded only to solve

        need = np.full(len(held), self.limits.min_copies, dtype=np.int64)
        if (held.sum(axis=1) < need).any():
            fill(self.load[layer], held, need, self.topology.slots, self.topology.share)
        return held

    def _made(self, held: Bools, layer: int) -> int:
        """New copies beyond those that repairs make."""
        if self.before is None or self.fallback is None:
            return 0
        return int((held & ~self.before[layer]).sum() - (self.fallback[layer] & ~self.before[layer]).sum())

    def _fits(self, held: Bools, layer: int) -> bool:
        """Whether a result keeps the limits; the search aims at them, this makes sure."""
        enough = (held.sum(axis=1) >= self.limits.min_copies).all() and (held.sum(axis=0) <= self.topology.slots).all()
        if self.before is None or self.fallback is None:
            return bool(enough)
        apart, was_apart = (
            (copies_by_node(copies, self.topology) > 0).sum(axis=1) for copies in (held, self.fallback[layer])
        )
        enough = enough and (apart >= np.minimum(was_apart, self.limits.min_copies)).all()
        return bool(enough) and self._made(held, layer) <= int(self.budgets[layer])

    def _judge(self, layer: int, held: Bools) -> Figures:
        if len(self.sample):
            return judge(
                self.sample[:_JUDGED, layer],
                copies_of(held, self.topology),
                self.topology,
                self.statistics.shape.experts,
            )
        return expected_figures(self.load[layer], held, self.topology, self.statistics.shape.top_k)


def _repaired(before: Bools, topology: Topology, min_copies: int, load: Floats, allowed: int | None) -> Bools:
    """The current placement with as few repairs as the hard limits need: copies on live shards, in their slots; and as
    far as ``allowed`` new copies go, on nodes of their own.
    """
    from moe_placement.solver.fill_kernel import fill  # noqa: PLC0415 - Numba is loaded only to solve

    held = before.copy()
    held[:, :, topology.slots == 0] = False
    layers, experts = load.shape
    need = np.full(experts, min_copies, dtype=np.int64)
    share = np.where(topology.share > 0, topology.share, 0.0)
    for layer in range(layers):
        short = (held[layer].sum(axis=1) < min_copies).any() or (held[layer].sum(axis=0) > topology.slots).any()
        if short and fill(load[layer], held[layer], need, topology.slots, share):
            held[layer] = balanced_placement(1, experts, topology.shard_slots, min_copies).held[0]
    left = UNLIMITED if allowed is None else allowed - int((held & ~before).sum())
    for layer in range(layers):
        left -= spread_over_nodes(held[layer], topology, min_copies, left)
    return held


def _budgets(allowed: int | None, repaired: Bools | None, before: Bools | None, layers: int) -> NDArray[np.int64]:
    """New copies that each layer may make beyond the repairs it needs, int64 ``[layers]``."""
    if allowed is None or repaired is None or before is None:
        return np.full(layers, UNLIMITED, dtype=np.int64)
    repairs = int((repaired & ~before).sum())
    if repairs > allowed:
        raise InfeasiblePlacementError(
            f"{repairs} copies must be made to serve every expert, the limits allow {allowed}: {repairs - allowed} "
            "too few; raise max_moved_slots or max_moved_bytes"
        )
    bounds = np.linspace(0, allowed - repairs, layers + 1).astype(np.int64)
    return np.diff(bounds)


def _written(held: Bools, topology: Topology, current: Placement | None) -> Placement:
    """``held`` in slots: the current placement itself where nothing differs."""
    if current is not None and current.shard_slots == topology.shard_slots and (held == current.held).all():
        return current
    return _into_slots(held, topology, current)


def _into_slots(held: Bools, topology: Topology, current: Placement | None) -> Placement:
    """Write copies into slots; those that a shard has already keep theirs, so that only real moves show."""
    layers, experts, shards = held.shape
    slots = np.full((layers, int(topology.slots.sum())), EMPTY, dtype=np.int32)
    left = held.copy()
    if current is not None:
        _keep(current, topology, slots, left)
    # The others in ascending order into what is empty; both lists go layer by layer and shard by shard.
    group, expert = np.divmod(np.flatnonzero(np.ascontiguousarray(left.transpose(0, 2, 1))), experts)
    empty = np.flatnonzero(slots == EMPTY)
    shard_of_slot = np.repeat(np.arange(shards), topology.slots)
    empty_group = empty // slots.shape[1] * shards + shard_of_slot[empty % slots.shape[1]]
    rank = np.arange(len(group)) - _first_of_each(group, layers * shards)[group]
    slots.ravel()[empty[_first_of_each(empty_group, layers * shards)[group] + rank]] = expert
    return Placement(slots, topology.shard_slots, experts)


def _first_of_each(group: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """int64 ``[groups]``: where each group begins in a list that is sorted by them."""
    count = np.bincount(group, minlength=groups)
    return np.asarray(np.cumsum(count) - count, dtype=np.int64)


def _keep(current: Placement, topology: Topology, slots: NDArray[np.int32], left: Bools) -> None:
    """Write copies that are in ``current`` into the slots they have there, and take them out of ``left``."""
    layers = np.arange(len(slots))
    begins, old = (np.concatenate([[0], np.cumsum(widths)]) for widths in (topology.slots, current.shard_slots))
    for shard in range(min(topology.shards, current.shards)):
        for position in range(min(int(topology.slots[shard]), current.shard_slots[shard])):
            expert = current.slots[:, old[shard] + position]
            kept = layers[(expert != EMPTY) & left[layers, expert, shard]]
            slots[kept, begins[shard] + position] = expert[kept]
            left[kept, expert[kept], shard] = False


def _check(statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits) -> None:
    shape = statistics.shape
    if current is not None and (current.layers, current.experts) != (shape.layers, shape.experts):
        raise MismatchError(
            f"the current placement has {current.layers} layers x {current.experts} experts, "
            f"the statistics {shape.layers} x {shape.experts}"
        )
    if not np.isfinite(statistics.load).all() or (statistics.load < 0).any():
        raise MismatchError("statistics hold negative or non-finite loads")
    usable = [min(n, shape.experts) for n in topology.shard_slots if n > 0]
    wanted = shape.experts * limits.min_copies
    if len(usable) < limits.min_copies:
        raise InfeasiblePlacementError(
            f"min_copies {limits.min_copies} needs as many shards with slots, there are {len(usable)}"
        )
    if sum(usable) < wanted:
        raise InfeasiblePlacementError(
            f"{shape.experts} experts x {limits.min_copies} copies need {wanted} slots per layer, the shards have "
            f"{sum(usable)}: {math.ceil(wanted - sum(usable))} too few"
        )
