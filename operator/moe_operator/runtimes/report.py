"""The report of a directory, read out of an answer. Pure: a job of the worker process for an answer of size."""

from __future__ import annotations

from pydantic import ValidationError

from moe_contract.report import DirectoryReport

MOST_BYTES = 4 * 1024 * 1024
"""Of an answer: placement and counts of ``sizes.MOST_SLOTS`` take 2 MB, 1024 shards and their problems another."""

_IN_OUR_WORDS = frozenset(
    {"greater_than_equal", "less_than_equal", "less_than", "too_long", "string_too_long", "value_error"}
)
"""Faults whose message says nothing of what was read."""


class NoReportError(ValueError):
    """An answer that is no report; the message says why in our words: what answers may be no directory, and what it
    says nobody's business."""


def parse_report(body: bytes | bytearray) -> DirectoryReport:
    """Read a report.

    Raises:
        NoReportError: it is none, or one that this release cannot read.
    """
    try:
        return DirectoryReport.model_validate_json(body)
    except ValidationError as error:
        raise NoReportError(_fault(error)) from None
    except RecursionError:
        raise NoReportError("it is nested too deep") from None


def _fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = f"field {'.'.join(map(str, fault['loc']))}: " if fault["loc"] else ""
    return where + (fault["msg"] if fault["type"] in _IN_OUR_WORDS else fault["type"])
