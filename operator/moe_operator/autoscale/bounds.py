"""Between which numbers of shards a policy may choose now, and what is wrong with its schedules. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moe_operator.api.autoscaling import Autoscaling
from moe_operator.rebalance.windows import BadWindowError, check, is_open

FIELD = "spec.experts.autoscaling"


class BadScheduleError(ValueError):
    """A schedule that cannot be read, never comes, or leaves the policy's bounds; the message names its field, the
    value and the cure."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the most shards. ``schedule``: index of the schedule that says so; None where the policy itself
    does."""

    least: int
    most: int
    schedule: int | None = None

    @property
    def field(self) -> str:
        """The field in which these bounds stand."""
        return FIELD if self.schedule is None else f"{FIELD}.schedules[{self.schedule}]"

    def clamped(self, shards: int) -> int:
        """The number nearest to ``shards`` within the bounds."""
        return min(max(shards, self.least), self.most)


def check_schedules(policy: Autoscaling, now: datetime) -> None:
    """Check that all schedules can be read, come, and stay within the policy's bounds.

    Raises:
        BadScheduleError: of the first that does not.
    """
    try:
        check(policy.schedules, now, f"{FIELD}.schedules")
    except BadWindowError as error:
        raise BadScheduleError(str(error)) from error
    for number, each in enumerate(policy.schedules):
        here = f"{FIELD}.schedules[{number}]"
        if each.min_shards < policy.min_shards:
            raise BadScheduleError(
                f"{here}.minShards is {each.min_shards}, below {FIELD}.minShards, which is {policy.min_shards}: raise "
                "the former or lower the latter"
            )
        if each.max_shards > policy.max_shards:
            raise BadScheduleError(
                f"{here}.maxShards is {each.max_shards}, above {FIELD}.maxShards, which is {policy.max_shards}: lower "
                "the former or raise the latter"
            )


def bounds(policy: Autoscaling, now: datetime, experts: int | None) -> Bounds:
    """The bounds in force. ``experts``: per MoE layer, than which there are never more shards; None before that is
    known.

    Raises:
        BadScheduleError: see ``check_schedules``.
    """
    check_schedules(policy, now)
    for number, each in enumerate(policy.schedules):
        if is_open(each, now):
            return _held(Bounds(each.min_shards, each.max_shards, number), experts)
    return _held(Bounds(policy.min_shards, policy.max_shards), experts)


def _held(asked: Bounds, experts: int | None) -> Bounds:
    most = asked.most if experts is None else min(asked.most, experts)
    return Bounds(min(asked.least, most), most, asked.schedule)
