"""Plans to be judged: made for one kind of text where the placement of another kind is in force. Pure.

Prompts of the new kind are dealt into four parts: two are planned on, one is the evidence that the plan is decided and
foretold by, and one is unseen until it is measured.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.brain.report import Row
from benchmarks.rebalancing.sizes import Sizes
from moe_placement import (
    Decision,
    Figures,
    Limits,
    Placement,
    Plan,
    Policy,
    RoutingStatistics,
    Topology,
    decide,
    plan_migration,
    simulate,
    solve,
)
from moe_placement.expected import figures_on
from moe_placement.traces import Trace

HORIZON = 100_000
"""Steps that a placement is expected to serve: an hour at 30 a second."""
POLICY = Policy()


@dataclass(frozen=True, slots=True)
class Case:
    """A plan with its decision.

    Attributes:
        name: the kinds of text and the seed.
        unseen: int16 ``[tokens, layers, k]``.
        foretold: figures of the plan's placement on the evidence, as they were decided by.
    """

    name: str
    current: Placement
    plan: Plan
    decision: Decision
    unseen: NDArray[np.int16]
    foretold: Figures

    @property
    def moves(self) -> bool:
        return self.plan.moved_slots > 0

    @property
    def of_the_unseen(self) -> Figures:
        """Figures of the plan's placement on the unseen prompts, had they been known."""
        return simulate(self.unseen, self.plan.placement, self.plan.topology)

    @property
    def would_pay(self) -> bool:
        """Whether it gains as much on the unseen prompts, by the cost model, as counts, and more than its price."""
        before, after = simulate(self.unseen, self.current, self.plan.topology).seconds, self.of_the_unseen.seconds
        saved = (before - after) * self.current.layers * HORIZON
        return (before - after) / before >= POLICY.least_gain and saved > self.decision.price


def cases(trace: Trace, topology: Topology, seeds: int) -> Iterator[Case]:
    """For each seed every kind of text after every one, the same again after itself included."""
    for seed in range(seeds):
        for before in trace.domains:
            current = _first(trace.of_domain(before), topology, seed)
            for after in trace.domains:
                yield _case(f"{before} to {after}, {seed}", current, trace.of_domain(after), topology, seed)


def counted(figure: int, decisions: Sequence[Decision], sizes: Sizes) -> list[Row]:
    """Of how many plans, of all models, the figure is."""
    accepted = sum(each.accepted for each in decisions)
    refused = len(decisions) - accepted
    return [
        Row(figure, "together: plans accepted, and carried out", accepted, sizes.plans, at_most=False),
        Row(figure, "together: plans refused, and carried out all the same", refused, sizes.refused, at_most=False),
    ]


def _first(trace: Trace, topology: Topology, seed: int) -> Placement:
    planned, _, _ = _parts(trace, seed)
    return solve(RoutingStatistics.of_ids(planned, trace.experts), topology, limits=Limits(seed=seed)).placement


def _case(name: str, current: Placement, trace: Trace, topology: Topology, seed: int) -> Case:
    # Other prompts than those that the placement in force was made for, where the kind of text is the same.
    planned, evidence, unseen = _parts(trace, 1000 + seed)
    plan = solve(RoutingStatistics.of_ids(planned, trace.experts), topology, current, Limits(seed=seed))
    migration = plan_migration(current, plan.placement, topology)
    seen = RoutingStatistics.of_ids(evidence, trace.experts)
    decision = decide(plan, migration, [seen], HORIZON, policy=POLICY)
    return Case(name, current, plan, decision, unseen, figures_on(seen, plan.placement, topology))


def _parts(trace: Trace, seed: int) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int16]]:
    """A half of the prompts, and two quarters."""
    prompts = np.random.default_rng(seed).permutation(np.unique(trace.prompt))
    half, three = len(prompts) // 2, len(prompts) * 3 // 4
    return tuple(trace.ids[np.isin(trace.prompt, part)] for part in np.split(prompts, [half, three]))  # type: ignore[return-value]
