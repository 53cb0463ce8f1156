"""When the traffic is looked at next, and why not now. Pure.

All that it goes by stands in the objects: a restarted operator, or another one, comes to the same answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from moe_operator.api import (
    ExpertPlacement,
    MoEDeployment,
    Phase,
    PlacementConditionType,
    Reason,
    RebalanceMode,
    RebalanceReason,
)
from moe_operator.api.names import ANNOTATION_PAUSE
from moe_operator.api.rebalance import Rebalance
from moe_operator.finding import Finding
from moe_operator.rebalance.windows import BadWindowError, check, next_open

MOST_REST = timedelta(days=1)
"""The longest cooldown, however many proposals in a row were taken back, unless somebody asked for a longer one."""
MOST_DOUBLINGS = 14
"""So often a cooldown doubles at most: the shortest one, 10 s, is longer than ``MOST_REST`` then, and the longest is
still a length of time."""


@dataclass(frozen=True, slots=True)
class Past:
    """Attributes:
    looked: when the traffic was looked at last; None where that is not known.
    moved: when a placement came into force last, whoever wanted it.
    rollbacks: proposals that were taken back, one after the other and none verified since.
    under_way: name of the ExpertPlacement that is on its way or being verified.
    """

    looked: datetime | None = None
    moved: datetime | None = None
    rollbacks: int = 0
    under_way: str | None = None

    @classmethod
    def of(cls, moe: MoEDeployment, placements: Iterable[ExpertPlacement]) -> Past:
        """The past as the objects tell it. ``placements``: those of the deployment."""
        told = moe.status.rebalance
        newest_first = sorted(placements, key=lambda each: -each.revision)
        arrivals = [time for each in newest_first if (time := _arrived(each)) is not None]
        going = (Phase.MIGRATING, Phase.VERIFYING)
        return cls(
            looked=_time(told.last_decision.time) if told and told.last_decision else None,
            moved=max(arrivals, default=None),
            rollbacks=len(taken_back(newest_first)),
            under_way=next((each.metadata.name for each in newest_first if each.status.phase in going), None),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Whether the traffic is looked at now.

    Attributes:
        at: UTC; when it is due or will be, as far as that is known. It stays the same until something happens.
        message: without times.
    """

    due: bool
    at: datetime | None
    reason: RebalanceReason
    message: str


def standstill(moe: MoEDeployment, now: datetime) -> Finding | None:
    """Why nothing happens of what ``spec.rebalance`` asks for: condition ``RebalancePaused``."""
    rebalance = moe.spec.rebalance
    if rebalance.mode is RebalanceMode.OFF:
        return None
    if moe.spec.suspend:
        return Finding(Reason.SUSPENDED, "spec.suspend is true: the operator writes nothing")
    if moe.rebalance_paused:
        return Finding(Reason.PAUSED, f"the annotation {ANNOTATION_PAUSE} is set: remove it, or set it to false")
    try:
        check(rebalance.windows, now)
    except BadWindowError as error:
        return Finding(Reason.WINDOW_INVALID, str(error))
    return None


def evaluation(moe: MoEDeployment, past: Past, now: datetime) -> Evaluation:
    """Whether the traffic is looked at ``now``, a time with its zone; if not, why and when."""
    rebalance = moe.spec.rebalance
    if rebalance.mode is RebalanceMode.OFF:
        return Evaluation(False, None, RebalanceReason.OFF, "spec.rebalance.mode is Off")
    stop = standstill(moe, now)
    if stop:
        return Evaluation(False, None, RebalanceReason.named(stop.reason), stop.message)
    if past.under_way:
        message = f"{past.under_way} is on its way or being verified"
        return Evaluation(False, None, RebalanceReason.UNDER_WAY, message)
    return _in_a_window(rebalance, _earliest(rebalance, past, now), now)


@dataclass(frozen=True, slots=True)
class _Wait:
    until: datetime
    reason: RebalanceReason
    message: str


def taken_back(newest_first: Iterable[ExpertPlacement]) -> tuple[ExpertPlacement, ...]:
    """Proposals that were taken back since one was verified, the last first."""
    found = []
    for placement in newest_first:
        verified = placement.status.condition(PlacementConditionType.VERIFIED)
        if verified and verified.status == "True":
            break
        if placement.status.phase is Phase.ROLLED_BACK:
            found.append(placement)
    return tuple(found)


def rest_after(rebalance: Rebalance, rollbacks: int) -> timedelta:
    """How long nothing is proposed after a move, with so many proposals in a row taken back."""
    longest, doubled = max(MOST_REST, rebalance.rests_for), 1 << min(rollbacks, MOST_DOUBLINGS)
    return min(longest, rebalance.rests_for * doubled)


def _earliest(rebalance: Rebalance, past: Past, now: datetime) -> _Wait | None:
    """When interval and cooldown are both over; None where neither began."""
    waits = []
    looked, moved = _credible(past.looked, rebalance, now), _credible(past.moved, rebalance, now)
    if looked:
        message = f"the traffic is looked at once in spec.rebalance.interval ({rebalance.interval})"
        waits.append(_Wait(looked + rebalance.every, RebalanceReason.INTERVAL, message))
    if moved:
        waits.append(_cooldown(rebalance, past.rollbacks, moved))
    return max(waits, key=lambda wait: wait.until, default=None)


def _cooldown(rebalance: Rebalance, rollbacks: int, moved: datetime) -> _Wait:
    rest = rest_after(rebalance, rollbacks)
    if not rollbacks:
        message = f"a placement came into force; nothing is proposed for {rest}"
        return _Wait(moved + rest, RebalanceReason.COOLING_DOWN, message)
    message = f"{rollbacks} of the operator's proposals in a row were taken back; nothing is proposed for {rest}"
    return _Wait(moved + rest, RebalanceReason.BACKING_OFF, message)


def _in_a_window(rebalance: Rebalance, wait: _Wait | None, now: datetime) -> Evaluation:
    earliest = max(wait.until, now) if wait else now
    opens = next_open(rebalance.windows, earliest)
    if opens > earliest:
        message = "no window of spec.rebalance.windows is open then"
        return Evaluation(False, opens, RebalanceReason.OUTSIDE_WINDOWS, message)
    if wait and wait.until > now:
        return Evaluation(False, wait.until, wait.reason, wait.message)
    return Evaluation(True, wait.until if wait else None, RebalanceReason.DUE, "the traffic is looked at")


def _credible(time: datetime | None, rebalance: Rebalance, now: datetime) -> datetime | None:
    """The time, unless it lies further ahead than an interval: then a clock was wrong, or is, or somebody wrote it."""
    return time if time and time <= now + rebalance.every else None


def _arrived(placement: ExpertPlacement) -> datetime | None:
    migrated = placement.status.condition(PlacementConditionType.MIGRATED)
    return _time(migrated.last_transition_time) if migrated and migrated.status == "True" else None


def _time(text: str) -> datetime | None:
    """A time in a status, which anybody may have written; None where it is no time of a known zone."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo else None
    except (ValueError, OverflowError):
        return None
