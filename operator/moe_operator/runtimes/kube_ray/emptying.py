"""When the Ray clusters of a deployment that goes to sleep are taken away: once nothing runs in them any more. Pure."""

from __future__ import annotations

from moe_contract.report import DirectoryReport

FOLLOWED_SECONDS = 3.0
"""From the switch of its Service until every node's proxy follows: whatever comes before that is still led here."""
MOST_SECONDS = 60.0
"""From the switch on, after which what still runs is cut; also how long a directory that does not answer is asked."""


def may_go(report: DirectoryReport | None, seconds: float) -> bool:
    """``seconds``: since its Service leads no request there any more; ``report``: of now, None if there is none."""
    if seconds < FOLLOWED_SECONDS:
        return False
    idle = report is not None and not any(replica.running or replica.waiting for replica in report.attention)
    return idle or seconds >= MOST_SECONDS
