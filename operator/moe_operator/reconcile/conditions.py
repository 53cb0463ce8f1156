"""The conditions of a MoEDeployment. Pure: the world, the plan and what is wrong in, five conditions out.

Nothing in them changes while the world does not: no times but those of transitions, no counts but of progress.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moe_operator.api import Condition, ConditionType, MoEDeploymentStatus, Reason
from moe_operator.api.status import ConditionStatus
from moe_operator.reconcile.diagnosis import runtime_problem
from moe_operator.reconcile.plan import Plan, Step
from moe_operator.reconcile.progress import counted, next_stage, ready_shards, serves, settled
from moe_operator.reconcile.world import Finding, World

TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
MAX_MESSAGE = 4096
"""Much of a message may be another program's words; one that the API server refuses would never be told."""

# What repairs itself: with one of these the deployment is still on its way.
_PASSING = frozenset(
    {
        Reason.SHARDS_LOST,
        Reason.ATTENTION_LOST,
        Reason.SHARD_PROBLEM,
        Reason.UNHEALTHY,
        Reason.FOREIGN_WRITER,
        Reason.DIRECTORY_UNREACHABLE,
    }
)


@dataclass(frozen=True, slots=True)
class History:
    """What was told before, and of which spec and when it is told now."""

    before: MoEDeploymentStatus
    generation: int
    now: datetime

    def condition(self, kind: ConditionType, status: ConditionStatus, why: Finding) -> Condition:
        """The condition, with the time since when its status is what it is."""
        earlier = self.before.condition(kind)
        since = earlier.last_transition_time if earlier and earlier.status == status else None
        return Condition(
            type=kind,
            status=status,
            observed_generation=self.generation,
            last_transition_time=since or self.now.strftime(TIME_FORMAT),
            reason=why.reason,
            message=why.message[:MAX_MESSAGE],
        )

    def status_with(self, *conditions: Condition) -> MoEDeploymentStatus:
        """The status told before, with these conditions in place of those of their types."""
        told = {condition.type: condition for condition in (*self.before.conditions, *conditions)}
        return self.before.model_copy(
            update={"observed_generation": self.generation, "conditions": tuple(told.values())}
        )


def deleting_status(history: History, waiting: Finding) -> MoEDeploymentStatus:
    """While the object is being deleted: what that waits for."""
    deleting = Finding(Reason.DELETING, waiting.message)
    stuck = waiting.reason != Reason.DELETING
    degraded = waiting if stuck else Finding(Reason.AS_EXPECTED, "nothing is wrong")
    return history.status_with(
        history.condition(ConditionType.READY, "False", deleting),
        history.condition(ConditionType.PROGRESSING, "True", deleting),
        history.condition(ConditionType.DEGRADED, "True" if stuck else "False", degraded),
    )


def invalid_status(history: History, message: str) -> MoEDeploymentStatus:
    """Of an object that the operator's types cannot read."""
    why = Finding(Reason.SPEC_INVALID, message)
    return history.status_with(
        history.condition(ConditionType.READY, "False", why),
        history.condition(ConditionType.PROGRESSING, "False", why),
        history.condition(ConditionType.DEGRADED, "True", why),
    )


def next_conditions(world: World, plan: Plan, problem: Finding | None) -> tuple[Condition, ...]:
    """All conditions, in the order in which they are shown."""
    return (
        _ready(world, plan, problem),
        _progressing(world, plan, problem),
        _degraded(world, problem),
        _model_valid(world, plan),
        _runtime_reachable(world),
    )


def _ready(world: World, plan: Plan, problem: Finding | None) -> Condition:
    if serves(world, plan):
        return _condition(world, ConditionType.READY, "True", Finding(Reason.AVAILABLE, _capacity(world)))
    stage = None if world.moe.spec.suspend else next_stage(world, plan)
    why = problem or stage or _idle(world, plan)
    return _condition(world, ConditionType.READY, "False", why)


def _capacity(world: World) -> str:
    if world.report is None:
        return "requests are answered, as far as is known; the directory does not report"
    shards = counted(ready_shards(world, world.report), "expert shard")
    attention = counted(sum(replica.ready for replica in world.report.attention), "attention replica")
    return f"{shards} and {attention} answer requests"


def _idle(world: World, plan: Plan) -> Finding:
    if plan.step is Step.SLEEP:
        return Finding(Reason.ASLEEP, "spec.experts.shards is 0; scale up to wake it")
    if world.moe.spec.suspend:
        return Finding(Reason.SUSPENDED, "spec.suspend is true, and nothing is being served")
    return Finding(Reason.LOADING_EXPERTS, "the routing table is not complete yet")


def _progressing(world: World, plan: Plan, problem: Finding | None) -> Condition:
    kind = ConditionType.PROGRESSING
    if world.moe.spec.suspend:
        return _condition(
            world, kind, "False", Finding(Reason.SUSPENDED, "spec.suspend is true: nothing is written to Ray")
        )
    if problem and problem.reason not in _PASSING:
        return _condition(world, kind, "False", problem)
    before = world.moe.status.condition(kind)
    if world.report is None and serves(world, plan) and before:
        return before
    stage = next_stage(world, plan)
    if stage:
        return _condition(world, kind, "True", stage)
    if plan.step is Step.SLEEP:
        return _condition(world, kind, "False", _idle(world, plan))
    return _condition(world, kind, "False", settled(world))


def _degraded(world: World, problem: Finding | None) -> Condition:
    if problem:
        return _condition(world, ConditionType.DEGRADED, "True", problem)
    return _condition(world, ConditionType.DEGRADED, "False", Finding(Reason.AS_EXPECTED, "nothing is wrong"))


def _model_valid(world: World, plan: Plan) -> Condition:
    kind = ConditionType.MODEL_VALID
    seen = None if plan.step is Step.REPLACE else world.candidate if plan.change else world.report
    if seen and seen.model_problem:
        return _condition(world, kind, "False", Finding.of(seen.model_problem))
    if seen and seen.model:
        m = seen.model
        what = f"{m.architecture}: {m.layers} MoE layers of {m.experts} experts, top-{m.top_k}, served in {m.dtype}"
        return _condition(world, kind, "True", Finding(Reason.MODEL_READ, what))
    before = world.moe.status.condition(kind)
    if before and not plan.change and plan.step is not Step.REPLACE and (world.serve is None or world.core):
        return before
    return _condition(
        world, kind, "Unknown", Finding(Reason.INSPECTING_MODEL, "Ray's side has not looked at the model yet")
    )


def _runtime_reachable(world: World) -> Condition:
    kind = ConditionType.RUNTIME_REACHABLE
    if world.serve is not None:
        what = f"Ray answers at {world.moe.ray_cluster.dashboard_url}"
        return _condition(world, kind, "True", Finding(Reason.REACHABLE, what))
    problem = runtime_problem(world)
    if problem:
        return _condition(world, kind, "False", problem)
    before = world.moe.status.condition(kind)
    if world.runtime_problem and before:
        return before
    why = world.key_problem or Finding(Reason.RAY_UNREACHABLE, "Ray was not asked yet")
    return _condition(world, kind, "Unknown", why)


def _condition(world: World, kind: ConditionType, status: ConditionStatus, why: Finding) -> Condition:
    return History(world.moe.status, world.moe.metadata.generation, world.now).condition(kind, status, why)
