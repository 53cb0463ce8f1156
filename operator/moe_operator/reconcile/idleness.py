"""Whether a deployment is to be put to sleep, as ``spec.sleep`` says. Pure.

What was asked is known by the directory's counts of tokens, which the status repeats with a time (``load``), so that it
needs no notes: an operator that starts anew goes on from what was told. Requests that were refused, for want of a key
or of room, count nothing, nor do those that no token is computed for, such as the list of models.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from moe_contract.report import DirectoryReport
from moe_operator.api import ConditionType, MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.api.status import Condition, LoadStatus, SleepStatus, time_told
from moe_operator.finding import Finding
from moe_operator.reconcile.history import History

_OF_SERVE = Finding(
    Reason.ROUTE_OF_SERVE,
    "spec.sleep is for runtime.kubeRay: with runtime.rayCluster requests go to Ray Serve, where nobody would hold the "
    "first one; scale by hand, or take spec.sleep out",
)


def is_due(moe: MoEDeployment, told: MoEDeploymentStatus, report: DirectoryReport | None, now: datetime) -> bool:
    """Whether the deployment is to be put to sleep now; ``told`` is the status of this very pass.

    Whatever is under way ends first, and begins the time anew: so does a person's ``kubectl scale``, and a wake-up.
    """
    sleep = moe.spec.sleep
    if sleep is None or not honoured(moe) or moe.spec.suspend or moe.spec.experts.shards == 0 or not told.serves:
        return False
    sleeps_when_idle = told.condition(ConditionType.SLEEPS)
    if sleeps_when_idle is not None and sleeps_when_idle.status == "False":
        return False
    if report is None or _is_asked(report, told.load):
        return False
    since = _idle_since(told)
    return since is not None and now - since >= sleep.idle


def honoured(moe: MoEDeployment) -> bool:
    """Whether this runtime can be put to sleep so that somebody wakes it."""
    return moe.spec.runtime.kube_ray is not None


def next_sleep(moe: MoEDeployment) -> SleepStatus | None:
    """As how many shards the deployment is to be woken."""
    if moe.spec.sleep is None:
        return None
    shards = moe.spec.experts.shards
    return SleepStatus(shards=shards) if shards else moe.status.sleep


def sleeps(moe: MoEDeployment, history: History, held: bool, not_woken: Finding | None = None) -> Iterator[Condition]:
    """The condition. ``held``: whether requests are held while the deployment sleeps. ``not_woken``: why they could not
    wake it."""
    if moe.spec.sleep is None:
        return
    kind = ConditionType.SLEEPS
    if not honoured(moe):
        yield history.condition(kind, "False", _OF_SERVE)
        return
    if not_woken:
        yield history.condition(kind, "False", not_woken)
        return
    happens = f"spec.experts.shards is set to 0 once nobody has asked anything for {moe.spec.sleep.after_idle}"
    if held:
        yield history.condition(kind, "True", Finding(Reason.AS_EXPECTED, f"{happens}; the first request wakes it"))
    else:
        alone = f"{happens}; requests fail then until somebody scales it up: install the chart with activator.enabled"
        yield history.condition(kind, "True", Finding(Reason.NOT_HELD, alone))


def _is_asked(report: DirectoryReport, load: LoadStatus | None) -> bool:
    """Whether requests are under way, or came since the load was told."""
    if any(replica.running or replica.waiting for replica in report.attention):
        return True
    # A directory that has restarted counts from 0 again.
    return report.traffic.layer_rows not in (0, load.layer_rows if load else 0)


def _idle_since(told: MoEDeploymentStatus) -> datetime | None:
    """Since when nobody asks anything; None while something is under way, or times cannot be read."""
    ready, progressing = told.condition(ConditionType.READY), told.condition(ConditionType.PROGRESSING)
    if ready is None or progressing is None or progressing.status != "False":
        return None
    texts = [ready.last_transition_time, progressing.last_transition_time, *([told.load.time] if told.load else [])]
    times = [time_told(text) for text in texts]
    return max(time for time in times if time is not None) if all(times) else None
