"""What is wrong with a deployment, in the order in which a person should look at it. Pure.

Messages say the same at every attempt: a status that repeats itself is not written again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from moe_contract.report import DirectoryReport, ShardReport
from moe_contract.serve.merge import Conflict
from moe_contract.serve.state import Application
from moe_operator.api import ConditionType, Reason
from moe_operator.reconcile.plan import Plan, Step
from moe_operator.reconcile.progress import has_its_experts, shards_named
from moe_operator.reconcile.world import Finding, World, owner_of
from moe_operator.release import serving_requirement

RUNTIME_GRACE_SECONDS = 5.0
"""A Ray that answered before and misses one call is not told of yet."""
DIRECTORY_GRACE_SECONDS = 10.0
"""The same for a directory: after a restart it is back within seconds, and tokens flow meanwhile."""

_MISSING_MODULE = re.compile(r"No module named '([\w.]+)'")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_VARYING = re.compile(r"0x[0-9a-f]+|pid=\d+|\b[0-9a-f]{16,}\b")
_SHARDS_SHORT = (Reason.SHARDS_LOST, Reason.UNHEALTHY, Reason.SHARD_PROBLEM)
"""Told when shards lack experts, they are still told of while these load: nothing else says that these are not new."""
_NAMED = 5
"""Applications that a message names."""


def diagnose(world: World, plan: Plan, conflict: Conflict | None) -> Finding | None:
    """The first thing that is wrong, or None."""
    if plan.step in (Step.SLEEP, Step.REPLACE):
        return None
    looks: tuple[Callable[[], Finding | None], ...] = (
        lambda: world.key_problem,
        lambda: runtime_problem(world),
        lambda: _conflict(world, conflict),
        lambda: _failed_applications(world),
        lambda: _model(world, plan),
        lambda: plan.problem,
        lambda: _refused(world.report),
        lambda: _shards(world),
        lambda: _attention(world),
        lambda: _unhealthy(world),
        lambda: _directory(world),
        lambda: _foreign_writer(world),
    )
    return next((problem for look in looks if (problem := look())), None)


def runtime_problem(world: World) -> Finding | None:
    """Why Ray cannot be read, once it is to be told."""
    before = world.moe.status.condition(ConditionType.RUNTIME_REACHABLE)
    if before and before.status == "True" and world.runtime_failing_seconds < RUNTIME_GRACE_SECONDS:
        return None
    return world.runtime_problem


def _conflict(world: World, conflict: Conflict | None) -> Finding | None:
    if conflict is None:
        return None
    removal = _removal(world, conflict.owner)
    if conflict.route is None:
        return Finding(
            Reason.NAME_CONFLICT,
            f"Serve application {conflict.owner!r} on this Ray cluster has a name of this deployment's and is left "
            f"alone: delete it{removal}",
        )
    owner, known = _owner(world, conflict.owner)
    if conflict.path:
        where = f"{conflict.path} is a path of {owner}" if known else f"a path above or below it is of {owner}"
        return Finding(
            Reason.ROUTE_PREFIX_TAKEN,
            f"spec.serving.routePrefix is {conflict.route}, and {where}: "
            f"Serve would send requests for the one to the other; choose another prefix{removal}",
        )
    return Finding(
        Reason.ROUTE_PREFIX_TAKEN,
        f"spec.serving.routePrefix is {conflict.route}, which {owner} has: choose another{removal}",
    )


def _owner(world: World, application: str) -> tuple[str, bool]:
    """Who has a route, and whether it may be named: of other namespaces a tenant knows no more than that one does."""
    owner = owner_of(application)
    if owner is None or owner.namespace != world.moe.metadata.namespace:
        return "another application on this Ray cluster", False
    whose = f"MoEDeployment {owner.key}"
    if _namesake(world, application):
        return f"an earlier {whose} (or one of another Kubernetes cluster)", True
    return whose, True


def _namesake(world: World, application: str) -> str | None:
    """The core application's name, if this is of another object of the same name: names carry a hash of the uid."""
    owner = owner_of(application)
    return owner.core if owner and owner.key == world.moe.key and owner.core != world.core_name else None


def _removal(world: World, application: str) -> str:
    left = _namesake(world, application)
    if left is None:
        return ""
    return f", or, if nobody needs it, remove {left}* from Ray (docs/operations.md, 'Applications left behind')"


def _failed_applications(world: World) -> Finding | None:
    for application in world.applications.values():
        if application.status == "DEPLOY_FAILED":
            return _failure(world, application)
    return _still_failing(world)


def _failure(world: World, application: Application) -> Finding:
    said = _said(application)
    missing = _MISSING_MODULE.search(said)
    if missing:
        return Finding(
            Reason.PACKAGE_MISSING,
            f"the Ray cluster at {world.moe.ray_cluster.dashboard_url} has no Python package {missing[1]!r}: install "
            f"it on all its nodes, pip install '{serving_requirement()}'; it is tried again by itself",
        )
    return Finding(Reason.DEPLOY_FAILED, f"Serve could not start {application.name}: {_last_line(said)}")


def _said(application: Application) -> str:
    return _ANSI.sub("", "\n".join([application.message, *application.problems.values()]))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _VARYING.sub("…", lines[-1])[:500] if lines else "it gave no reason"


def _still_failing(world: World) -> Finding | None:
    """The failure told before, while what failed is being tried again."""
    before = world.moe.status.condition(ConditionType.DEGRADED)
    if (
        before is None
        or before.reason not in (Reason.PACKAGE_MISSING, Reason.DEPLOY_FAILED)
        or before.observed_generation != world.moe.metadata.generation
        or (world.core is not None and all(a.status == "RUNNING" for a in world.applications.values()))
    ):
        return None
    return Finding(Reason.named(before.reason), before.message)


def _model(world: World, plan: Plan) -> Finding | None:
    if plan.change:
        return plan.change.problem
    if world.report is None or world.report.model_problem is None:
        return None
    return Finding.of(world.report.model_problem)


def _directory(world: World) -> Finding | None:
    problem = world.report_problem
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
        return Finding(Reason.SHARD_PROBLEM, _VARYING.sub("…", "; ".join(troubled)))
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
    was_settled = progressing and progressing.reason == Reason.SETTLED
    short = [shard for shard in report.shards if shard.wanted and not has_its_experts(shard)]
    if not short or not (was_lost or was_settled):
        return None
    return Finding(Reason.SHARDS_LOST, _coming_back(short))


def _coming_back(shards: Sequence[ShardReport]) -> str:
    """What each is waited for."""
    starting = [shard.index for shard in shards if shard.phase == "Starting"]
    loading = [shard.index for shard in shards if shard.phase != "Starting"]
    said = []
    if starting:
        said.append(shards_named(starting, "was lost and starts anew", "were lost and start anew"))
    if loading:
        said.append(shards_named(loading, "was lost and loads its", "were lost and load their") + " experts anew")
    return "; ".join(said)


def _attention(world: World) -> Finding | None:
    if world.report is None:
        return None
    if _was_served(world) and not any(replica.ready for replica in world.report.attention):
        return Finding(Reason.ATTENTION_LOST, "no attention replica is ready any more; Ray restarts them")
    return None


def _was_served(world: World) -> bool:
    degraded = world.moe.status.condition(ConditionType.DEGRADED)
    return world.moe.status.serves or bool(degraded and degraded.reason == Reason.ATTENTION_LOST)


def _unhealthy(world: World) -> Finding | None:
    """Told after what the directory says is lost, which is nearer to the cause, and before that it says nothing."""
    for application in world.applications.values():
        if application.status == "UNHEALTHY":
            said = _last_line(_said(application))
            return Finding(Reason.UNHEALTHY, f"Serve calls {application.name} unhealthy, and restarts it: {said}")
    return None


def _foreign_writer(world: World) -> Finding | None:
    if not world.lost and not world.edited:
        return None
    removed = f"removed {_some(sorted(world.lost))}" if world.lost else ""
    changes = [f"{name} ({path})" if path else name for name, path in sorted(world.edited.items())]
    changed = f"changed {_some(changes)}" if changes else ""
    if world.lost_often:
        return Finding(
            Reason.FOREIGN_WRITER,
            f"another writer of Serve's configuration at {world.moe.ray_cluster.dashboard_url} "
            f"{' and '.join(filter(None, (removed, changed)))} again and again, or this Ray does not keep what it is "
            "given: they are put back, but only after up to a minute each; find out which it is",
        )
    return Finding(
        Reason.FOREIGN_WRITER,
        f"another writer of Serve's configuration at {world.moe.ray_cluster.dashboard_url} "
        f"{' and '.join(filter(None, (removed, changed)))}; they were put back as they were: have it keep what it does "
        "not own",
    )


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} more"
