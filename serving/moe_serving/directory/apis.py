"""The api processes as the directory knows them: who answers, what they have counted, what is wrong with them. Pure."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from moe_contract.base import MOST_NAME
from moe_contract.report import ApiReport, DirectoryReport
from moe_contract.sizes import MOST_APIS
from moe_serving.directory.leases import LEASE_SECONDS
from moe_serving.directory.ledger import Counts, Ledger, add_up, check_counts, check_ledger

MOST_GONE = 32
"""Processes that have gone whose counts are kept one by one; of more, the longest gone are folded."""
MOST_ENTRIES = 2 * MOST_APIS + MOST_GONE
"""Processes that are kept one by one: while all are being replaced, twice as many run as there may be."""
NOT_YET = 2**62
"""Time of creation, in seconds, while none has been told."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ApiSync:
    """What an api process tells the directory, and asks for. Sent once a second and for each scrape.

    Attributes:
        api: a name that no other process ever has.
        ready: it answers requests.
        created: the earliest time of creation that it has heard of, in seconds since the epoch.
        refused: why it did not take its last ``user_config``, if so.
        counts: all that it has counted since it started; None where that is as told before.
        gauges: what is so now, such as answers being written.
        ledger: all that it knows, for a directory that has just started; else None.
        version: of the directory's ledger that it has, 0 for none; None where it wants none.
        host: the address of the node that it runs on; empty where it does not tell.
    """

    api: str
    ready: bool
    created: int
    refused: str | None = None
    counts: Counts | None = None
    gauges: Counts = field(default_factory=dict)
    ledger: Ledger | None = None
    version: int | None = None
    host: str = ""


@dataclass(frozen=True, slots=True)
class ApiReply:
    """What the directory answers an api process.

    Attributes:
        directory: a name that no other directory process ever has.
        report: what the operator is told, ``refused`` of any api included.
        others_ready: other api processes that answer requests.
        created: the earliest time of creation that any has told.
        settled: whether it is so long since the directory heard of any that all have told what they know.
        gauges: sums over the processes that live.
        ledger: in force, where it was wanted and is another than ``ApiSync.version``.
        version: of the ledger in force.
    """

    directory: str
    report: DirectoryReport
    others_ready: int
    created: int
    settled: bool
    gauges: Counts
    ledger: Ledger | None
    version: int


class Apis:
    """All api processes. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._name = secrets.token_hex(8)
        self._first: float | None = None
        self._heard: dict[str, tuple[float, ApiSync]] = {}
        self._seen: dict[str, float] = {}
        self._ledger = Ledger()
        self._version = 1
        self._created = NOT_YET

    def take(self, sync: ApiSync, now: float) -> None:
        """Take what a process tells; counts that are none, or too many, are not taken, and logged."""
        nothing = replace(sync, counts=None, ledger=None)
        self._first = now if self._first is None else self._first
        try:
            check_counts(sync.gauges)
            self._count(sync, now)
        except ValueError as error:
            logger.warning("the counts of api %.64s are not taken: %s", sync.api, error)
            nothing = replace(nothing, gauges={})
        self._heard = self._live(now) | {sync.api: (now, nothing)}
        self._created = min(self._created, sync.created)

    def reply(self, sync: ApiSync, report: DirectoryReport, now: float) -> ApiReply:
        """The answer to a process that has just told ``sync``."""
        live = [heard for _, heard in self._live(now).values()]
        wanted = sync.version is not None and sync.version != self._version
        return ApiReply(
            directory=self._name,
            report=report,
            others_ready=sum(heard.ready for heard in live if heard.api != sync.api),
            created=self._created,
            settled=self._settled(now),
            gauges=add_up(heard.gauges for heard in live),
            ledger=self._ledger if wanted else None,
            version=self._version,
        )

    def refused(self, now: float) -> str | None:
        """Why one of them did not take its last ``user_config``, if so."""
        return next((heard.refused for _, heard in self._live(now).values() if heard.refused), None)

    def told_of(self, now: float) -> tuple[ApiReport, ...]:
        """All that live, in no order of importance; of very many the first."""
        live = [heard for _, (_, heard) in sorted(self._live(now).items())][: 2 * MOST_APIS]
        return tuple(ApiReport(ready=heard.ready, host=heard.host[:MOST_NAME]) for heard in live)

    def _settled(self, now: float) -> bool:
        return self._first is not None and now - self._first >= LEASE_SECONDS

    def _live(self, now: float) -> dict[str, tuple[float, ApiSync]]:
        return {name: heard for name, heard in self._heard.items() if now - heard[0] < LEASE_SECONDS}

    def _count(self, sync: ApiSync, now: float) -> None:
        self._seen[sync.api] = now
        if sync.ledger is None and sync.counts is None:
            return
        ledger = self._ledger
        if sync.ledger is not None:
            check_ledger(sync.ledger, MOST_ENTRIES)
            ledger = ledger.merge(sync.ledger)
        if sync.counts is not None:
            check_counts(sync.counts)
            ledger = ledger.count(sync.api, sync.counts)
        seen = {name: self._seen.get(name, now) for name in ledger.entries}
        ledger = self._folded(ledger, seen, now)
        if len(ledger.entries) > MOST_ENTRIES:
            raise ValueError(f"{len(ledger.entries)} processes count; at most {MOST_ENTRIES} are kept apart")
        self._seen = seen
        if ledger != self._ledger:
            self._ledger = ledger
            self._version += 1

    def _folded(self, ledger: Ledger, seen: Mapping[str, float], now: float) -> Ledger:
        """The ledger with as many processes that have gone as are kept one by one. Nothing is folded before all have
        told what they know."""
        if not self._settled(now):
            return ledger
        gone = sorted((at, name) for name, at in seen.items() if now - at >= LEASE_SECONDS)
        surplus = len(gone) - MOST_GONE
        return ledger.fold([name for _, name in gone[:surplus]]) if surplus > 0 else ledger
