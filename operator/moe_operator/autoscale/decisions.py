"""The decisions that a status tells: the last ten, each once. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from moe_operator.api.reasons import AutoscaleReason
from moe_operator.api.status import (
    MAX_MESSAGE,
    MOST_DECISIONS,
    TIME_FORMAT,
    AutoscalingDecision,
    AutoscalingStatus,
    time_told,
)
from moe_operator.autoscale.decision import Wish

SAME_AGAIN = timedelta(seconds=60)
"""A decision that comes again within this was not carried out: somebody wrote in between."""
_TOLD_ONCE = (AutoscaleReason.PLAN_REFUSED, AutoscaleReason.WRITE_REFUSED, AutoscaleReason.ITL_NOT_BY_SHARDS)
"""Decisions to leave things as they are, which are told once, however often they are made."""


def is_news(wish: Wish, told: AutoscalingStatus) -> bool:
    """Whether the wish is news: one that changes something always is, one that leaves things as they are only once."""
    last = told.decisions[0] if told.decisions else None
    if last is None or wish.reason not in _TOLD_ONCE:
        return True
    return (last.from_shards, last.to_shards, last.reason) != (wish.before, wish.after, wish.reason)


def with_decision(told: AutoscalingStatus, wish: Wish | None, now: datetime) -> tuple[AutoscalingDecision, ...]:
    """The decisions with this one, the newest first. It takes the place of the same one that was not carried out."""
    if wish is None:
        return told.decisions
    used = wish.used
    decision = AutoscalingDecision(
        time=now.strftime(TIME_FORMAT),
        from_shards=wish.before,
        to_shards=wish.after,
        reason=wish.reason,
        message=wish.message[:MAX_MESSAGE],
        utilization=round(100 * used.busiest) if used else None,
        itl_ms=round(1000 * used.itl) if used and used.itl is not None else None,
    )
    earlier = told.decisions
    if earlier and (earlier[0].from_shards, earlier[0].to_shards) == (wish.before, wish.after):
        at = time_told(earlier[0].time)
        earlier = earlier[1:] if at is not None and now - at < SAME_AGAIN else earlier
    return (decision, *earlier)[:MOST_DECISIONS]
