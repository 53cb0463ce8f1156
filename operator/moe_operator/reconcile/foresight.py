"""What the brain's plans for other numbers of shards would bring. Pure; large ones are made in the worker process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moe_contract.model import ModelFacts
from moe_operator.autoscale.decision import Foreseen
from moe_operator.autoscale.forecast import balance, busiest, shares
from moe_operator.reconcile.placing import next_goal, wanted_shards
from moe_operator.reconcile.world import World
from moe_placement import InvalidPlacementError
from moe_placement.encoding import decode_counts, decode_placement
from moe_placement.errors import InvalidStatisticsError


def foresee(world: World, numbers: Sequence[int], total: float | None, most_busy: float | None) -> tuple[Foreseen, ...]:
    """What would come of each number of shards up to the first that is good: of exactly the plan that would be made for
    it.

    Args:
        total: how busy all shards are together, 1 for each that always is; None where that is not known.
        most_busy: how busy the busiest shard may be; None where a plan need only fit.
    """
    facts = world.facts
    if facts is None:
        return tuple(Foreseen(number, "the model is not known yet") for number in numbers)
    plans: list[Foreseen] = []
    for number in numbers:
        plans.append(_foreseen(world, facts, number, total))
        if plans[-1].refusal(most_busy) is None:
            break
    return tuple(plans)


def _foreseen(world: World, facts: ModelFacts, number: int, total: float | None) -> Foreseen:
    experts = world.moe.spec.experts.model_copy(update={"shards": number})
    spec = world.moe.spec.model_copy(update={"experts": experts})
    asked = replace(world, moe=world.moe.model_copy(update={"spec": spec}))
    goal = next_goal(asked, facts)
    if goal.problem:
        return Foreseen(number, goal.problem.message)
    running = wanted_shards(asked)
    if running > number:
        return Foreseen(number, f"the copies of the experts need {running} shards (copies.min, slotsPerShard, drains)")
    load = world.report.traffic.load if world.report else None
    if total is None or load is None or goal.config.placement is None:
        return Foreseen(number)
    try:
        counts = decode_counts(load, facts.layers, facts.experts)
        part = shares(decode_placement(goal.config.placement), counts)
    except (InvalidStatisticsError, InvalidPlacementError) as error:
        return Foreseen(number, f"the counts of the traffic cannot be read: {error}")
    return Foreseen(number, busiest=total * busiest(part), balance=balance(part, running))
