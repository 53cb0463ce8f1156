"""Which Events a new status makes: one for each reason that a condition newly gives. Pure."""

from __future__ import annotations

from moe_operator.api import Condition, ConditionType, MoEDeploymentStatus, Reason
from moe_operator.kube.events import EventNote


def transitions(before: MoEDeploymentStatus, after: MoEDeploymentStatus) -> list[EventNote]:
    """Each reason is told once, however many conditions give it; a change of a message alone is no transition."""
    notes: dict[str, EventNote] = {}
    for condition in after.conditions:
        if not _is_news(before.condition(condition.type), condition):
            continue
        note = EventNote(
            "Warning" if _is_wrong(condition) else "Normal", Reason.named(condition.reason), condition.message
        )
        if note.reason not in notes or note.type == "Warning":
            notes[note.reason] = note
    return list(notes.values())


def _is_news(earlier: Condition | None, now: Condition) -> bool:
    """Of a first status only what is wrong or under way is news, not all that is as it should be. A drain is told of
    only once somebody asks for it."""
    if earlier is None:
        under_way = now.type in (ConditionType.DEGRADED, ConditionType.PROGRESSING) and now.status == "True"
        return under_way or now.type == ConditionType.DRAINED or _is_wrong(now)
    return (earlier.status, earlier.reason) != (now.status, now.reason)


def _is_wrong(condition: Condition) -> bool:
    if condition.type == ConditionType.DRAINED:
        return condition.reason in (Reason.DRAIN_REFUSED, Reason.NO_SUCH_SHARD)
    if condition.type == ConditionType.AUTOSCALING_ACTIVE:
        return condition.reason in (Reason.SCHEDULE_INVALID, Reason.TOO_MANY_SHARDS)
    if condition.type == ConditionType.EVICTIONS_ALLOWED:
        return True
    return condition.type in (ConditionType.DEGRADED, ConditionType.AUTOSCALER_CONFLICT) and condition.status == "True"
