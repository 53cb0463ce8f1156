"""What the status tells of where a deployment is busy. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta

from moe_contract.load import load_of
from moe_contract.report import DirectoryReport
from moe_operator.api.status import TIME_FORMAT, LoadStatus, time_told

LOAD_SECONDS = 60.0
"""Between two loads that are told."""


def next_load(before: LoadStatus | None, report: DirectoryReport | None, now: datetime) -> LoadStatus | None:
    """The load to tell: ``before``, until requests came since and its time is over. A quiet deployment tells nothing
    new."""
    if report is None or not _is_due(before, report.traffic.layer_rows, now):
        return before
    load = load_of(report)
    if load is None:
        return before
    return LoadStatus(time=now.strftime(TIME_FORMAT), **load.model_dump())


def _is_due(before: LoadStatus | None, layer_rows: int, now: datetime) -> bool:
    if before is None:
        return True
    # A directory that has restarted counts from 0 again.
    if layer_rows in (0, before.layer_rows):
        return False
    told = time_told(before.time)
    # One that is still to come was told by another clock, or by somebody's hand.
    return told is None or not timedelta(0) <= now - told < timedelta(seconds=LOAD_SECONDS)
