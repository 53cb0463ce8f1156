"""Keeps an attention replica and the directory of one mind: tables come, acknowledgements and counts go; beside them,
by calls of their own, statistics.

Run as a task in the replica's event loop. While the directory is away the replica routes by the table it has. A report
with counts is answered at once; the directory holds the answer to any other until there is a newer table, so that an
idle replica hears of that at once and costs few calls.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncReply, SyncRequest
from moe_serving.faults import FaultPoint, reached
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.routing.statistics import StatisticsClient, StatisticsSync
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.window import Window
from moe_serving.threads import in_words

SYNC_SECONDS = 0.25
"""Between two reports, and between two looks at whether there is anything to report while an answer is held."""
HOLD_SECONDS = 2.0
"""So long the directory may hold an answer: an idle replica renews its lease as often."""
ANSWER_SECONDS = 2.0
"""For one report, beyond what it may be held; a directory that takes longer is taken for away, and asked again."""

logger = logging.getLogger(__name__)


class SyncedClient(StatisticsClient, Protocol):
    """What is kept in step: ``RemoteExperts``."""

    @property
    def version(self) -> TableVersion: ...

    def update(self, table: RoutingTable) -> None: ...

    @property
    def has_windows(self) -> bool:
        """Whether a window of counts is over."""
        ...

    def take_windows(self) -> tuple[Window, ...]: ...


class DirectorySync:
    """One replica's reports.

    Args:
        client: the replica's experts client.
        replica: its name.
        status: asked before each report.
        call: sends a report to ``Directory.sync``.
        tell: hands statistics to ``Directory.take_statistics``.
    """

    def __init__(
        self,
        client: SyncedClient,
        replica: str,
        status: Callable[[], AttentionStatus],
        call: Callable[[SyncRequest], Awaitable[SyncReply]],
        tell: Callable[[StatisticsReport], Awaitable[StatisticsHeard]],
    ) -> None:
        self._client = client
        self._replica = replica
        self._status = status
        self._call = call
        self._sequence = 0
        self._undelivered: tuple[Window, ...] = ()
        self._statistics = StatisticsSync(client, replica, lambda: status().digest, tell)
        self._away = False
        self._acknowledged: TableVersion | None = None

    async def run(self) -> None:
        """Report, and hand statistics over, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._statistics.run())
            tasks.create_task(self._keep_reporting())

    async def _keep_reporting(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began, acknowledged = loop.time(), self._client.version
            try:
                await self.sync_once(HOLD_SECONDS)
                self._note_contact()
            except Exception as error:  # noqa: BLE001 - a call may fail in any way, and the replica must outlive each
                self._note_failure(error)
            if self._client.version == acknowledged:
                await asyncio.sleep(began + SYNC_SECONDS - loop.time())

    async def sync_once(self, hold: float = 0.0) -> None:
        """One report and what its answer brings.

        Args:
            hold: seconds for which the answer may be held, unless counts wait for it. It is not waited for any longer
                when there is something new to report.

        Raises:
            TimeoutError: the directory did not answer.
            Exception: whatever the call raises.
        """
        if not self._undelivered and self._client.has_windows:
            self._sequence += 1
            self._undelivered = await self._take_windows()
        if self._undelivered:
            hold = 0.0
        version, status, legacy = self._client.version, self._status(), self._statistics.legacy_version
        request = SyncRequest(self._replica, version, self._sequence, self._undelivered, status, hold, legacy)
        reply = await self._ask(request)
        if reply is None:
            return
        if version != self._acknowledged:
            self._acknowledged = version
            reached(FaultPoint.ATTENTION_ACKNOWLEDGED)
        self._statistics.hear(reply.statistics)
        if reply.counted:
            self._undelivered = ()
        if reply.table is not None:
            reached(FaultPoint.ATTENTION_HEARD)
            self._client.update(reply.table)

    async def _take_windows(self) -> tuple[Window, ...]:
        """Empty where they could not be counted: the lease is renewed all the same."""
        try:
            return await asyncio.to_thread(self._client.take_windows)
        except Exception as error:  # our own fault and not the directory's, so it is not told as that
            logger.warning("counts of what was routed are lost: %s", in_words(error), exc_info=error)
            return ()

    async def _ask(self, request: SyncRequest) -> SyncReply | None:
        """The answer; None where it was held and there is something new to report."""
        call = asyncio.ensure_future(self._call(request))
        try:
            async with asyncio.timeout(request.hold + ANSWER_SECONDS):
                while not (await asyncio.wait({call}, timeout=SYNC_SECONDS))[0]:
                    if request.hold and self._has_news(request):
                        return None
                return call.result()
        finally:
            call.cancel()

    def _has_news(self, told: SyncRequest) -> bool:
        return self._client.has_windows or (self._client.version, self._status()) != (told.version, told.status)

    def _note_contact(self) -> None:
        if self._away:
            logger.info("the directory is back")
        self._away = False

    def _note_failure(self, error: Exception) -> None:
        if not self._away:
            logger.warning(
                "no answer from the directory, routing goes on by epoch %d: %s",
                self._client.version.epoch,
                in_words(error),
            )
        self._away = True
