"""What a new Ray cluster is told of the traffic of the one whose place it takes. Pure."""

from __future__ import annotations

from moe_contract.report import DirectoryReport
from moe_operator.runtimes.directory import Heard

TOLD_SECONDS = 20.0
"""For which requests stay with the former cluster at most, so that the new one begins with its statistics."""
_TAKES_STATISTICS = 1
"""The contract since which a directory does."""


def begins_anew(former: Heard, new: DirectoryReport | None) -> str | None:
    """Why the former directory's statistics are of no use to the new one; None where they are."""
    if former.report is None:
        return former.problem.message if former.problem else "the former one does not answer"
    if new is None or new.model is None:
        return "it has not told yet what it serves"
    if former.report.model is None or former.report.model.digest != new.model.digest:
        return "it serves another checkpoint"
    if new.contract < _TAKES_STATISTICS:
        return "its release takes none"
    return None
