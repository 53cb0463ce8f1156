"""Keeps an attention replica and the directory of one mind: tables come, acknowledgements and counts go.

Run as a task in the replica's event loop. While the directory is away the replica routes by the table it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from moe_serving.directory.messages import AttentionStatus, SyncReply, SyncRequest
from moe_serving.routing.counters import RoutingCounters
from moe_serving.routing.table import RoutingTable, TableVersion

SYNC_SECONDS = 0.25
"""Between two reports: an old copy is freed this much after its replacement is in use."""
ANSWER_SECONDS = 2.0
"""For one report; a directory that takes longer is taken for away, and asked again."""

logger = logging.getLogger(__name__)


class SyncedClient(Protocol):
    """What is kept in step: ``RemoteExperts``."""

    @property
    def version(self) -> TableVersion: ...

    def update(self, table: RoutingTable) -> None: ...

    def take_counters(self) -> RoutingCounters: ...


class DirectorySync:
    """One replica's reports.

    Args:
        client: the replica's experts client.
        replica: its name.
        status: asked before each report.
        call: sends a report to the directory, such as ``directory_handle.sync.remote``.
    """

    def __init__(
        self,
        client: SyncedClient,
        replica: str,
        status: Callable[[], AttentionStatus],
        call: Callable[[SyncRequest], Awaitable[SyncReply]],
    ) -> None:
        self._client = client
        self._replica = replica
        self._status = status
        self._call = call
        self._sequence = 0
        self._undelivered: RoutingCounters | None = None
        self._away = False

    async def run(self) -> None:
        """Report until cancelled."""
        while True:
            try:
                await self.sync_once()
                self._note_contact()
            except Exception as error:  # noqa: BLE001 - a call may fail in any way, and the replica must outlive each
                self._note_failure(error)
            await asyncio.sleep(SYNC_SECONDS)

    async def sync_once(self) -> None:
        """One report and what its answer brings.

        Raises:
            TimeoutError: the directory did not answer.
            Exception: whatever the call raises.
        """
        if self._undelivered is None:
            taken = self._client.take_counters()
            if taken.tokens:
                self._sequence += 1
                self._undelivered = taken
        request = SyncRequest(self._replica, self._client.version, self._sequence, self._undelivered, self._status())
        async with asyncio.timeout(ANSWER_SECONDS):
            reply = await self._call(request)
        self._undelivered = None
        if reply.table is not None:
            self._client.update(reply.table)

    def _note_contact(self) -> None:
        if self._away:
            logger.info("the directory is back")
        self._away = False

    def _note_failure(self, error: Exception) -> None:
        if not self._away:
            logger.warning(
                "no answer from the directory, routing goes on by epoch %d: %s: %s",
                self._client.version.epoch,
                type(error).__name__,
                error,
            )
        self._away = True
