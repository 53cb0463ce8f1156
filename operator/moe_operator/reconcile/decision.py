"""What a pass decides from the world, where that takes long: pure, and a job of the worker process."""

from __future__ import annotations

from dataclasses import dataclass

from moe_operator.reconcile.figures import balance
from moe_operator.reconcile.plan import Plan, next_plan
from moe_operator.reconcile.world import World


@dataclass(frozen=True, slots=True)
class Decision:
    """Attributes:
    plan: what to do next.
    balance: of the placement in force, as ``figures.balance`` counts it.
    """

    plan: Plan
    balance: float | None = None


def decide(world: World) -> Decision:
    """All that has to be computed of a world."""
    return Decision(next_plan(world), balance(world.actual_placement, world.report.traffic) if world.report else None)
