"""Times that come again, as cron has them: the windows of ``spec.rebalance`` and the schedules of
``spec.experts.autoscaling``. When one is open, and which cannot be read or never come. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

_CLOCKS_CHANGE_BY = timedelta(hours=3)
"""At most, when summer time begins or ends. What begins at a time of the day is looked for from so long before, since
cron knows no difference between the two hours of the same name."""
_FIELDS = 5


class Window(Protocol):
    """A time that comes again."""

    @property
    def cron(self) -> str:
        """When it begins."""

    @property
    def time_zone(self) -> str:
        """Of ``cron``."""

    @property
    def length(self) -> timedelta:
        """How long it is."""


class BadWindowError(ValueError):
    """A window that cannot be read, or never comes; the message names its field, the value and the cure."""


def check(windows: Sequence[Window], now: datetime, path: str = "spec.rebalance.windows") -> None:
    """Check that all windows can be read, and come. ``path``: the field that lists them.

    Raises:
        BadWindowError: of the first that does not.
    """
    for number, window in enumerate(windows):
        field = f"{path}[{number}]"
        zone = _zone(window, field)
        try:
            begins = next(_begins(window, zone, now), None)
        except (CronSimError, ValueError, AssertionError) as error:
            raise BadWindowError(
                f"{field}.cron is {window.cron!a}: {str(error) or 'it cannot be read'}; write minute, hour, day of the "
                "month, month and day of the week, such as 0 2 * * *"
            ) from error
        if begins is None:
            raise BadWindowError(
                f"{field}.cron is {window.cron!a}, which never comes: write a day that its months have, such as "
                "0 2 * * *"
            )


def next_open(windows: Sequence[Window], at: datetime) -> datetime:
    """``at`` where a window is open then, or there is none; else when the next one opens, in UTC.

    Raises:
        BadWindowError: a window that ``check`` would refuse.
    """
    check(windows, at)
    if not windows or any(is_open(window, at) for window in windows):
        return at
    return min(_opens(window, at) for window in windows)


def is_open(window: Window, at: datetime) -> bool:
    """Whether the window has begun and is not over; ``check`` takes it."""
    # Looked for as `_opens` does: cron's way back misses times of the last day of a month on which the clocks change.
    begin = next(_begins(window, ZoneInfo(window.time_zone), at - window.length), None)
    return begin is not None and begin <= at


def _opens(window: Window, at: datetime) -> datetime:
    return next(_begins(window, ZoneInfo(window.time_zone), at))


def _begins(window: Window, zone: ZoneInfo, after: datetime) -> Iterator[datetime]:
    """When the window begins after ``after``, in UTC, ever later."""
    if len(window.cron.split()) != _FIELDS:
        raise CronSimError(f"it has {len(window.cron.split())} fields and not {_FIELDS}")
    local = (after.astimezone(UTC) - _CLOCKS_CHANGE_BY).astimezone(zone)
    times = (each.astimezone(UTC) for each in CronSim(window.cron, local))
    return dropwhile(lambda begin: begin <= after, times)


def _zone(window: Window, field: str) -> ZoneInfo:
    try:
        return ZoneInfo(window.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BadWindowError(
            f"{field}.timeZone is {window.time_zone!a}, which is no time zone: write one of IANA's names, such as "
            "Europe/Berlin, or UTC"
        ) from error
