"""Whether a deployment is on its way, stuck or done, as kstatus reads it: ``Reconciling`` and ``Stalled``. Pure.

Flux, Helm 4, kpt and Argo wait by these two and ``Ready``: Reconciling is "in progress", Stalled is "failed", neither
and Ready is "current". Both are never True at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from moe_operator.api import Condition, ConditionType, MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.api.reasons import RESTING
from moe_operator.api.status import time_told
from moe_operator.finding import Finding
from moe_operator.reconcile.history import History

STALLED_SECONDS = 600.0
"""What should pass by itself and has not for so long is stuck, as with a Deployment's ``progressDeadlineSeconds``."""

_OF_PODS = frozenset(
    {
        Reason.IMAGE_PULL_FAILED,
        Reason.UNSCHEDULABLE,
        Reason.QUOTA_EXCEEDED,
        Reason.VOLUME_MISSING,
        Reason.OUT_OF_MEMORY,
        Reason.CONTAINER_REFUSED,
        Reason.CONTAINER_ENDED,
        Reason.POD_WAITING,
    }
)
"""Why a pod does not come up. What serves all the same is not stuck by it: the pod may be a spare one."""

PASSING = _OF_PODS | frozenset(
    {
        Reason.SHARDS_LOST,
        Reason.ATTENTION_LOST,
        Reason.SHARD_PROBLEM,
        Reason.UNHEALTHY,
        Reason.DIRECTORY_UNREACHABLE,
        Reason.FOREIGN_WRITER,
        Reason.INSUFFICIENT_RESOURCES,
    }
)
"""What repairs itself: with one of these the deployment is still on its way."""

_MAY_PASS = PASSING | {Reason.RAY_UNREACHABLE, Reason.PLACEMENT_REFUSED, Reason.INTERNAL_ERROR}
"""These, and what is tried again without anybody's doing. All others wait for somebody to mend something."""

_NOTHING = Finding(Reason.AS_EXPECTED, "nothing stands in the way")


def settlement(
    history: History, moe: MoEDeployment, told: MoEDeploymentStatus, problem: Finding | None
) -> tuple[Condition, Condition]:
    """Reconciling and Stalled, from the conditions that are ``told`` beside them."""
    ready, progressing = told.condition(ConditionType.READY), told.condition(ConditionType.PROGRESSING)
    done = ready is not None and ready.status == "True"
    if ready and done and ready.reason in RESTING:
        return _both(history, Finding(Reason.named(ready.reason), ready.message), None)
    if problem and problem.reason == Reason.FOREIGN_WRITER and (done or not _lasts(told, history.now)):
        problem = None  # it was put right
    if moe.spec.suspend:
        suspended = Finding(Reason.SUSPENDED, "spec.suspend is true: nothing is written to Ray")
        return _both(history, suspended, None if done else problem)
    if problem and done and problem.reason in _OF_PODS:
        return _reconciling(history, problem)
    if problem and (problem.reason not in _MAY_PASS or _lasts(told, history.now)):
        return _both(history, problem, problem)
    if problem:
        return _reconciling(history, problem)
    if progressing and (progressing.status == "True" or not done):
        return _reconciling(history, Finding(Reason.named(progressing.reason), progressing.message))
    return _both(history, _finding(progressing), None)


def on_the_way(history: History, why: Finding) -> tuple[Condition, Condition]:
    """Of what is on its way, whatever its spec."""
    return _reconciling(history, why)


def stuck(history: History, why: Finding) -> tuple[Condition, Condition]:
    """Of what waits for somebody to mend something."""
    return _both(history, why, why)


def tried_again(history: History, told: MoEDeploymentStatus, why: Finding) -> tuple[Condition, Condition]:
    """Of a pass that failed."""
    if why.reason in _MAY_PASS and not _lasts(told, history.now):
        return _reconciling(history, why)
    return stuck(history, why)


def _lasts(told: MoEDeploymentStatus, now: datetime) -> bool:
    """Whether something has been wrong for too long already."""
    degraded = told.condition(ConditionType.DEGRADED)
    if degraded is None or degraded.status != "True":
        return False
    since = time_told(degraded.last_transition_time)
    return since is not None and now - since >= timedelta(seconds=STALLED_SECONDS)


def _finding(condition: Condition | None) -> Finding:
    return Finding(Reason.named(condition.reason), condition.message) if condition else _NOTHING


def _reconciling(history: History, why: Finding) -> tuple[Condition, Condition]:
    return (
        history.condition(ConditionType.RECONCILING, "True", why),
        history.condition(ConditionType.STALLED, "False", _NOTHING),
    )


def _both(history: History, why: Finding, stalled: Finding | None) -> tuple[Condition, Condition]:
    return (
        history.condition(ConditionType.RECONCILING, "False", why),
        history.condition(ConditionType.STALLED, "True" if stalled else "False", stalled or _NOTHING),
    )
