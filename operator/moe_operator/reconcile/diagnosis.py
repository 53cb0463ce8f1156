"""What is wrong with a deployment, in the order in which a person should look at it. Pure.

Messages say the same at every attempt: a status that repeats itself is not written again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moe_contract.report import NOT_ADAPTIVE, NOT_FP8, NOT_RECORDED, AttentionReport, DirectoryReport, ShardReport
from moe_operator.api import ConditionType, Reason
from moe_operator.finding import Finding
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.progress import has_its_experts, shards_named
from moe_operator.reconcile.resources import missing
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import ApplicationPhase
from moe_operator.text import steadied

RUNTIME_GRACE_SECONDS = 5.0
"""A runtime that answered before and misses one call is not told of yet."""
DIRECTORY_GRACE_SECONDS = 10.0
"""A directory that misses reports for less is not told of yet: after a restart it is back within seconds, and tokens
flow meanwhile."""

_SHARDS_SHORT = (Reason.SHARDS_LOST, Reason.UNHEALTHY, Reason.SHARD_PROBLEM)
"""Once shards were told to lack experts, that is told until these are loaded: nothing else says that the shards are not
new."""


def diagnose(world: World, intent: Intent) -> Finding | None:
    """The first thing that is wrong, or None."""
    if intent.step in (Step.SLEEP, Step.REPLACE):
        return None
    looks: tuple[Callable[[], Finding | None], ...] = (
        lambda: world.key_problem,
        lambda: runtime_problem(world),
        lambda: _failed(world, intent),
        lambda: _model(world, intent),
        lambda: intent.problem,
        lambda: missing(world),
        lambda: _refused(world.report),
        lambda: world.runtime.pods_problem,
        lambda: _shards(world),
        lambda: _attention(world),
        lambda: _problem_of(world, ApplicationPhase.UNHEALTHY),
        lambda: _directory(world),
        lambda: world.runtime.foreign_writer,
    )
    return next((problem for look in looks if (problem := look())), None)


def runtime_problem(world: World) -> Finding | None:
    """Why the runtime cannot be read, once it is to be told."""
    before = world.moe.status.condition(ConditionType.RUNTIME_REACHABLE)
    if before and before.status == "True" and world.unreachable_seconds < RUNTIME_GRACE_SECONDS:
        return None
    return world.runtime.unreachable


def _failed(world: World, intent: Intent) -> Finding | None:
    """Why an application was given up. It is made anew, unless nobody knows what ran in it: then the finding says who
    has to."""
    found = _problem_of(world, ApplicationPhase.FAILED) or _still_failing(world)
    if found and intent.problem and intent.problem.reason == Reason.DIRECTORY_UNREACHABLE:
        return Finding(found.reason, f"{found.message}; {intent.problem.message}")
    return found


def _problem_of(world: World, phase: ApplicationPhase) -> Finding | None:
    """The problem of the first application in this phase. That of an unhealthy one is told after what the directory
    says is lost, which is nearer to the cause; and before that the directory says nothing."""
    return next((each.problem for each in world.runtime.applications.values() if each.phase is phase), None)


def _still_failing(world: World) -> Finding | None:
    """The failure told before, while what failed is being tried again."""
    before = world.moe.status.condition(ConditionType.DEGRADED)
    if (
        before is None
        or before.reason not in (Reason.PACKAGE_MISSING, Reason.DEPLOY_FAILED)
        or before.observed_generation != world.moe.metadata.generation
        or (
            world.core is not None
            and all(each.phase is ApplicationPhase.RUNNING for each in world.runtime.applications.values())
        )
    ):
        return None
    return Finding(Reason.named(before.reason), before.message)


def _model(world: World, intent: Intent) -> Finding | None:
    if intent.change:
        return intent.change.problem
    if world.report is None or world.report.model_problem is None:
        return None
    return Finding.of(world.report.model_problem)


def _directory(world: World) -> Finding | None:
    problem = world.runtime.report_problem
    if problem and problem.reason in (Reason.RAY_ADDRESS_REFUSED, Reason.RAY_ANSWER_REFUSED):
        return problem
    return problem if world.report_failing_seconds >= DIRECTORY_GRACE_SECONDS else None


def _refused(report: DirectoryReport | None) -> Finding | None:
    return Finding(Reason.PLACEMENT_REFUSED, report.refused) if report and report.refused else None


def _shards(world: World) -> Finding | None:
    shards = world.report.shards if world.report else ()
    lost = [shard.index for shard in shards if shard.phase == "Lost" and shard.wanted]
    if lost:
        return Finding(
            Reason.SHARDS_LOST, shards_named(lost, "does not answer", "do not answer") + "; Ray restarts them"
        )
    troubled = [f"shard {shard.index}: {shard.problem}" for shard in shards if shard.problem]
    if troubled:
        return Finding(Reason.SHARD_PROBLEM, steadied("; ".join(troubled)))
    return _returning(world)


def _returning(world: World) -> Finding | None:
    """Shards that were lost and are back without all of their experts: until then there are fewer copies than promised.

    A process may die and return between two looks; where all was settled, a shard that lacks experts has lost them.
    """
    report, before = world.report, world.moe.status
    if report is None or before.placement is None or before.placement.revision != report.revision:
        return None  # on the way to a placement there is none to lose
    degraded, progressing = before.condition(ConditionType.DEGRADED), before.condition(ConditionType.PROGRESSING)
    was_lost = degraded and degraded.reason in _SHARDS_SHORT
    was_settled = progressing and progressing.reason in (Reason.SETTLED, Reason.UPGRADE_HELD)
    short = [shard for shard in report.shards if shard.wanted and not has_its_experts(shard)]
    if not short or not (was_lost or was_settled):
        return None
    return Finding(Reason.SHARDS_LOST, _coming_back(short))


def _coming_back(shards: Sequence[ShardReport]) -> str:
    """What is waited for, for each of these shards."""
    starting = [shard.index for shard in shards if shard.phase == "Starting"]
    loading = [shard.index for shard in shards if shard.phase != "Starting"]
    said = []
    if starting:
        said.append(shards_named(starting, "was lost and starts anew", "were lost and start anew"))
    if loading:
        said.append(shards_named(loading, "was lost and loads its", "were lost and load their") + " experts anew")
    return "; ".join(said)


_TOLD_ELSEWHERE = (NOT_RECORDED, NOT_ADAPTIVE, NOT_FP8)
"""By conditions Recording, AdaptiveRouting and FP8Wire."""


def _attention(world: World) -> Finding | None:
    if world.report is None:
        return None
    if _was_served(world) and not any(replica.ready for replica in world.report.attention):
        return Finding(Reason.ATTENTION_LOST, "no attention replica is ready any more; Ray restarts them")
    told = [
        each
        for each in world.report.attention
        if each.ready and each.problem and not each.problem.startswith(_TOLD_ELSEWHERE)
    ]
    return Finding(Reason.CONFIGURATION_REFUSED, problems_of(told)) if told else None


def problems_of(replicas: Sequence[AttentionReport]) -> str:
    """What these attention replicas say is wrong with them."""
    return steadied("; ".join(f"attention replica {each.replica}: {each.problem}" for each in replicas))


def _was_served(world: World) -> bool:
    degraded = world.moe.status.condition(ConditionType.DEGRADED)
    return world.moe.status.serves or bool(degraded and degraded.reason == Reason.ATTENTION_LOST)
