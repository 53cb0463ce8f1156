"""Whether the data plane can answer, by what the directory last reported."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from moe_placement.wire.model import ModelFacts
from moe_placement.wire.report import DirectoryReport

logger = logging.getLogger(__name__)

PERIOD_S = 1.0
PERIOD_WHILE_STARTING_S = 0.25
"""A model that has just become ready should be asked at once."""


class DirectoryWatch:
    """Asks the directory again and again; keeps the last answer when it cannot be reached.

    Attributes:
        report: the last one; None before the first.
        facts: the model, once known: a directory that has just restarted knows it only a moment later.
        known: set with the first facts.
    """

    def __init__(self, fetch: Callable[[], Awaitable[DirectoryReport]]) -> None:
        self.report: DirectoryReport | None = None
        self.facts: ModelFacts | None = None
        self.known = asyncio.Event()
        self._fetch = fetch
        self._was_ready = False
        self._away = False
        self._taken_at = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                self._take(await self._fetch())
            except Exception as error:  # noqa: BLE001 - a directory that restarts must not end the watch
                self._note_absence(error)
            await asyncio.sleep(PERIOD_S if self._was_ready else PERIOD_WHILE_STARTING_S)

    @property
    def last(self) -> tuple[DirectoryReport, float] | None:
        """The last report and its age in seconds."""
        return (self.report, time.monotonic() - self._taken_at) if self.report is not None else None

    @property
    def away(self) -> bool:
        """Whether the directory could not be asked the last time."""
        return self._away

    @property
    def problem(self) -> str | None:
        """Why no answer can be expected now; None when one can.

        Once all was ready, nothing that happens later is a reason to turn requests away: they wait for another copy,
        another replica or its return, each within bounds of its own.
        """
        if self._was_ready:
            return None
        return _missing(self.report) if self.report is not None else "the directory has not reported yet"

    def _take(self, report: DirectoryReport) -> None:
        self.report = report
        self._taken_at = time.monotonic()
        if report.model is not None:
            self.facts = report.model
            self.known.set()
        self._was_ready = self._was_ready or _missing(report) is None
        self._away = False

    def _note_absence(self, error: Exception) -> None:
        if not self._away:
            logger.warning("the directory does not report: %s: %s", type(error).__name__, error)
        self._away = True


def _missing(report: DirectoryReport) -> str | None:
    """What a first answer still needs."""
    if report.model_problem is not None:
        return f"the model cannot be served ({report.model_problem.reason}): {report.model_problem.message}"
    if report.model is None:
        return "the model is being inspected"
    if report.placement is None:
        progress = report.progress
        return f"experts are being loaded: {progress.copied} of {progress.total} copies are in place"
    if not any(replica.ready for replica in report.attention):
        problems = [replica.problem for replica in report.attention if replica.problem]
        if problems:
            return f"no attention replica can load the model: {problems[0]}"
        return "attention is loading the model" if report.attention else "no attention replica has started"
    return None
