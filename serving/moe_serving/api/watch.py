"""Keeps an api process and the directory of one mind, and says whether the data plane can answer."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from moe_contract.model import ModelFacts
from moe_contract.report import DirectoryReport
from moe_serving.api.latest import Latest
from moe_serving.api.metrics import Totals
from moe_serving.directory.apis import ApiReply, ApiSync
from moe_serving.directory.ledger import Counts, Ledger

logger = logging.getLogger(__name__)

PERIOD_S = 2.0
"""Once all was ready, what the directory reports is for ``/metrics`` and for a directory that goes away; and each look
costs both processes some milliseconds, also where nobody asks anything."""
PERIOD_WHILE_STARTING_S = 0.25
"""A model that has just become ready should be asked at once."""
_PAUSE_S = 0.1
"""Between two calls, however many scrapes and requests wait for one: anybody may ask for /metrics."""
_LAST_S = 1.0
LEDGER_S = 5.0
"""How old the counters of the other processes may be that this one would hand to a directory that has restarted."""


@dataclass(frozen=True, slots=True)
class Said:
    """What this process says of itself; see ``ApiSync``."""

    ready: bool
    refused: str | None
    counts: Counts
    gauges: Counts


class DirectoryWatch:
    """Tells the directory of this process and hears its report, again and again; keeps the last one while it is away.

    Args:
        call: sends to the directory.
        say: asked before each call.

    Attributes:
        report: the last one; None before the first.
        facts: the model, once known: a directory that has just restarted knows it only a moment later.
        known: set with the first facts.
        created: the earliest time of creation that any api process has heard of, in seconds since the epoch: the same
            for all of them.
        others_ready: other api processes that answered requests, when the directory was last asked.
    """

    def __init__(self, call: Callable[[ApiSync], Awaitable[ApiReply]], say: Callable[[], Said]) -> None:
        self.report: DirectoryReport | None = None
        self.facts: ModelFacts | None = None
        self.known = asyncio.Event()
        self.created = int(time.time())
        self.others_ready = 0
        self._call = call
        self._say = say
        self._latest = Latest(self._exchange, _PAUSE_S)
        self._name = secrets.token_hex(8)
        self._was_ready = False
        self._away = False
        self._taken_at = 0.0
        self._directory = ""
        self._told: Counts | None = None
        self._ledger = Ledger()
        self._ledger_version = 0
        self._ledger_at = -math.inf
        self._scrapes = self._scrapes_served = 0

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.ask()
            except Exception as error:  # noqa: BLE001 - a directory that restarts must not end the watch
                self._note_absence(error)
            await asyncio.sleep(PERIOD_S if self._was_ready else PERIOD_WHILE_STARTING_S)

    async def ask(self) -> ApiReply:
        """What the directory says to a call that begins now.

        Raises:
            Exception: whatever the call raises.
        """
        return await self._latest.get()

    async def totals(self) -> Totals | None:
        """What all api processes have counted together; None where that cannot be told without a gap."""
        self._scrapes += 1
        try:
            reply = await self.ask()
        except Exception as error:  # noqa: BLE001 - as in run
            self._note_absence(error)
            return None
        return Totals(self._ledger.total(), reply.gauges) if reply.settled else None

    async def tell_last(self) -> None:
        """Before this process ends in order: what it has counted since it told the directory last."""
        if self._away:
            return
        with suppress(Exception):
            async with asyncio.timeout(_LAST_S):
                await self.ask()

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
        another replica or its return, each within bounds of its own. That holds for a process that comes later, too.
        """
        if self._was_ready:
            return None
        return _missing(self.report) if self.report is not None else "the directory has not reported yet"

    async def _exchange(self) -> ApiReply:
        reply = await self._tell(None)
        if reply.directory != self._directory:
            # It has just started, or we have: it may not know yet what others have told us.
            self._told, self._ledger_version, self._ledger_at = None, 0, -math.inf
            reply = await self._tell(self._ledger)
            self._directory = reply.directory
        self._take(reply)
        return reply

    async def _tell(self, ledger: Ledger | None) -> ApiReply:
        said, begun, scrapes = self._say(), time.monotonic(), self._scrapes
        wanted = scrapes > self._scrapes_served or begun - self._ledger_at >= LEDGER_S
        reply = await self._call(
            ApiSync(
                api=self._name,
                ready=said.ready,
                created=self.created,
                refused=said.refused,
                counts=None if said.counts == self._told else said.counts,
                gauges=said.gauges,
                ledger=ledger,
                version=self._ledger_version if wanted else None,
            )
        )
        self._told = said.counts
        if wanted:
            self._scrapes_served, self._ledger_at, self._ledger_version = scrapes, begun, reply.version
        if reply.ledger is not None:
            self._ledger = self._ledger.merge(reply.ledger)
        return reply

    def _take(self, reply: ApiReply) -> None:
        report = reply.report
        self.report = report
        self._taken_at = time.monotonic()
        if report.model is not None:
            self.facts = report.model
            self.known.set()
        self.created = min(self.created, reply.created)
        self.others_ready = reply.others_ready
        self._was_ready = self._was_ready or reply.others_ready > 0 or _missing(report) is None
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


def nobody_answers(report: DirectoryReport) -> bool:
    """Whether no api process of the deployment can answer yet, by a report that does not say that all is ready.

    A directory that has just restarted beside replicas that serve knows neither the model nor what the shards hold.
    """
    if report.model_problem is not None:
        return True
    nothing_loaded = bool(report.attention) and not any(replica.ready for replica in report.attention)
    return report.model is not None and (not report.shards or nothing_loaded)
