"""One layer's candidates, of which the one with the least modelled seconds is kept. Called by ``solver``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from moe_placement.baselines import eplb_global
from moe_placement.compiled import COMPILED
from moe_placement.cost import layer_seconds
from moe_placement.dispatch import copies_of
from moe_placement.expected import expected_figures
from moe_placement.initial import balanced_placement
from moe_placement.placement import Placement
from moe_placement.simulation import Figures, judge, replay
from moe_placement.solver.constants import (
    CAP,
    ERRORS,
    EVEN,
    FEW,
    INTERPRETED_SAMPLES,
    REPLAYED,
    UNLIMITED,
)
from moe_placement.solver.descent import descend
from moe_placement.solver.layer import improve_layer, place_layer
from moe_placement.solver.limits import Limits
from moe_placement.solver.place import fill, replicate
from moe_placement.solver.plan import with_shards
from moe_placement.solver.problem import LayerProblem, Prices, slowest_of
from moe_placement.solver.slots import budgets, copies_by_node, repaired, spread_over_nodes
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Result:
    """A layer's copies bool ``[experts, shards]``, its figures before and after, and whether it was reached in time."""

    held: Bools
    before: Figures | None
    after: Figures
    reached: bool


@dataclass(slots=True)
class Choice:
    """The candidate with the least modelled time so far."""

    held: Bools | None
    figures: Figures | None

    def offer(self, held: Bools, figures: Figures, margin: float) -> None:
        """Take a candidate that is faster by more than ``margin`` of the time; the first one is always taken."""
        if self.figures is None or figures.seconds < (1 - margin) * self.figures.seconds:
            self.held, self.figures = held, figures


@dataclass(frozen=True)
class Job:
    """What the layers of one plan share.

    Attributes:
        counts, load: float64 ``[layers, experts]``, tokens that chose each expert, 1 each in a layer without any; and
            the same as parts of the layer's load. EPLB gets the former: divided, equal loads of copies may differ.
        sample: int64 ``[tokens, layers, k]``, the sets that candidates are replayed on.
        before, fallback: bool ``[layers, experts, shards]``, the current placement as it is and with the repairs that
            it needs; None without one.
        budgets: int64 ``[layers]``, see ``slots.budgets``.
        deadline: of the monotonic clock, in seconds.
    """

    statistics: RoutingStatistics
    topology: Topology
    limits: Limits
    counts: Floats
    load: Floats
    sample: NDArray[np.int64]
    fallback: Bools | None
    before: Bools | None
    budgets: NDArray[np.int64]
    deadline: float
    lock: Lock = field(default_factory=Lock)

    @classmethod
    def of(
        cls, statistics: RoutingStatistics, topology: Topology, current: Placement | None, limits: Limits,
        deadline: float,
    ) -> Job:  # fmt: skip
        layers, counts = statistics.shape.layers, statistics.load
        counts = np.where(counts.sum(axis=1, keepdims=True) > 0, counts, 1.0)
        load = counts / counts.sum(axis=1, keepdims=True)
        most = limits.samples if COMPILED else min(limits.samples, INTERPRETED_SAMPLES)
        sample = statistics.sample.ids[:most].astype(np.int64)
        before = None if current is None else with_shards(current.held, topology.shards)
        allowed = limits.moved_slots(topology.costs.bytes_per_expert) if current is not None else None
        fallback = None if before is None else repaired(before, topology, limits.min_copies, load, allowed)
        each = budgets(allowed, fallback, before, layers)
        return cls(statistics, topology, limits, counts, load, sample, fallback, before, each, deadline)

    def run(self, layer: int) -> Result:
        """The best of what is and of the candidates, if its turn comes in time."""
        base = None if self.fallback is None else self.fallback[layer]
        before = None if base is None else self._judge(layer, base)
        if self._late():
            held = self._by_load(layer) if base is None else base
            return Result(held, before, before or self._judge(layer, held), False)
        problem = self._problem(layer)
        choice = Choice(base, before)
        if base is None:
            for held in self._from_scratch(problem, layer, choice):
                if self._fits(held, layer):
                    choice.offer(held, self._judge(layer, held), self._margin(choice.figures))
        else:
            for number, held in enumerate(self._from_current(problem, layer, base)):
                if self._fits(held, layer):
                    # What begins from scratch moves nearly everything: for that it has to be clearly better.
                    margin = 0.0 if number == 0 else self._margin(choice.figures)
                    choice.offer(held, self._judge(layer, held), margin)
        if choice.held is None or choice.figures is None:
            held = self._by_load(layer)
            return Result(held, before, self._judge(layer, held), not self._late())
        return Result(choice.held, before, choice.figures, not self._late())

    def _problem(self, layer: int) -> LayerProblem:
        experts, top_k = self.statistics.shape.experts, self.statistics.shape.top_k
        risk, shard_risk = self._risks
        return LayerProblem(
            load=np.ascontiguousarray(self.load[layer]),
            sets=np.ascontiguousarray(self.sample[:, layer]),
            pairs=self.statistics.pairs[layer],
            least=np.full(experts, self.limits.min_copies, dtype=np.int64),
            elsewhere=np.zeros(experts, dtype=np.int64),
            local=self.limits.node_locality,
            seed=self.limits.seed + layer,
            prices=Prices.of(self.load[layer], self.topology, top_k),
            sampled=max(len(self.sample), 1),
            covariance=self.statistics.steadied_covariance(layer),
            risk=risk,
            shard_risk=shard_risk,
            deadline=self.deadline,
        )

    @cached_property
    def _risks(self) -> tuple[float, float]:
        """Of nodes, and of shards inside a node."""
        limits, usable = self.limits, self.topology.slots > 0
        risk, shard_risk = limits.risk, limits.shard_risk
        if risk is None:
            risk = slowest_of(int(usable.sum()))
        if shard_risk is None:
            shard_risk = slowest_of(int(np.bincount(self.topology.node_index[usable]).max()))
        return risk, shard_risk

    def _from_scratch(self, problem: LayerProblem, layer: int, choice: Choice) -> Iterator[Bools]:
        """What balances loads, by us and by EPLB, and what the search finds; the plainest first."""
        if not len(problem.sets):
            yield place_layer(problem, self.topology)
            if choice.figures is None or choice.figures.shard_balance < 1 - EVEN:
                yield from self._eplb_of(layer)
            return
        yield from self._eplb_of(layer)
        yield place_layer(problem.loads_only(), self.topology)
        found = self._completed(place_layer(problem, self.topology), layer)
        yield found
        if self._few:
            capped = replace(problem, prices=replace(problem.prices, overload=CAP))
            starts = [found, self._completed(place_layer(capped, self.topology), layer)]
            yield from self._descended(layer, starts if choice.held is None else [*starts, choice.held])

    def _from_current(self, problem: LayerProblem, layer: int, base: Bools) -> Iterator[Bools]:
        """What the search finds within the budget, and what begins from scratch; ``_fits`` leaves out what would have
        to move too much for that.
        """
        budget = int(self.budgets[layer])
        found = self._completed(improve_layer(problem, self.topology, base, budget), layer)
        beyond = self._made(found, layer) - budget
        if 0 < beyond <= budget:  # parts of a split round what they may make
            found = self._completed(improve_layer(problem, self.topology, base, budget - beyond), layer)
        yield found
        anew: list[Bools] = []
        may_all_move = budget >= problem.least.sum()
        # Of other traffic than the current one was made for, the search from there ends where single moves end.
        if may_all_move and len(problem.sets):
            anew.append(self._completed(place_layer(problem, self.topology), layer))
        if self._few:
            yield from self._descended(layer, [found, base, *anew])
        yield from anew
        yield from self._eplb_of(layer)
        if may_all_move:
            yield place_layer(problem.loads_only(), self.topology)

    def _descended(self, layer: int, starts: list[Bools]) -> Iterator[Bools]:
        """Few experts: what single changes make of ``starts``, as long as modelled seconds fall."""
        found = descend(
            starts,
            lambda held: self._seconds(layer, held),
            lambda held: self._fits(held, layer) and not self._late(),
            self.topology.slots,
            self.limits.seed + layer,
        )
        if found is not None:
            yield found

    @property
    def _few(self) -> bool:
        """Whether single changes are tried: nodes that copies must or must not be on are no matter of these."""
        few = len(self.sample) > 0 and self.statistics.shape.experts <= FEW
        return few and self._anywhere and not self._late()

    @property
    def _anywhere(self) -> bool:
        """Whether no limit says which nodes the copies of an expert may be on."""
        return self.limits.min_copies == 1 and not self.limits.node_locality

    def _eplb_of(self, layer: int) -> Iterator[Bools]:
        """EPLB's global policy, where no limit speaks against it."""
        if self._anywhere:
            with self.lock:
                everywhere = self.eplb
            yield everywhere.held_in(layer)

    @cached_property
    def eplb(self) -> Placement:
        return eplb_global(self.counts, self.topology)

    def _margin(self, figures: Figures | None) -> float:
        """Part of the modelled time by which two replays of one placement may differ by chance: standard errors of the
        vectors that a node gets, or a shard of the only one, as part of the time that they take. Each token brings one
        or none, so their number is binomial.
        """
        topology, costs, tokens = self.topology, self.topology.costs, len(self.sample)
        if figures is None or not tokens:
            return 0.0
        if topology.nodes > 1:
            visits = figures.node_fan_out / topology.nodes
            bandwidth = costs.network_bandwidth * topology.shards / topology.nodes
        else:
            at_home = 1 / topology.shards if topology.resident_tokens else 0.0
            visits, bandwidth = figures.fan_out / topology.shards * (1 - at_home), costs.link_bandwidth
        seconds = costs.tokens_per_step * (costs.dispatch_bytes + costs.combine_bytes) / bandwidth
        error = np.sqrt(max(visits * (1 - visits), 0.0) / tokens)
        return float(ERRORS * error * seconds / figures.seconds)

    def _late(self) -> bool:
        return time.monotonic() > self.deadline

    def _by_load(self, layer: int) -> Bools:
        """A layer that keeps the hard limits whatever they are, balanced as far as loads alone can tell; at once."""
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
        if enough and self.limits.min_copies > 1:
            apart, was_apart = (
                (copies_by_node(copies, self.topology) > 0).sum(axis=1) for copies in (held, self.fallback[layer])
            )
            enough = (apart >= np.minimum(was_apart, self.limits.min_copies)).all()
        return bool(enough) and self._made(held, layer) <= int(self.budgets[layer])

    def _seconds(self, layer: int, held: Bools) -> float:
        """Modelled, of ``REPLAYED`` sampled sets at most: single changes are judged by nothing else."""
        copies, experts = copies_of(held, self.topology), self.statistics.shape.experts
        traffic, _, _ = replay(self.sample[:REPLAYED, layer], copies, self.topology, experts)
        return layer_seconds(traffic, self.topology)

    def _judge(self, layer: int, held: Bools) -> Figures:
        if len(self.sample):
            copies, experts = copies_of(held, self.topology), self.statistics.shape.experts
            return judge(self.sample[:, layer], copies, self.topology, experts)
        return expected_figures(self.load[layer], held, self.topology, self.statistics.shape.top_k)
