"""Hands a replica's statistics to the directory, beside its reports: megabytes, for which no lease should wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from moe_serving.directory.messages import StatisticsReport
from moe_serving.routing.exchange import StatisticsExchange, StatisticsHeard, StatisticsKnown
from moe_serving.routing.gatherer import Gathered
from moe_serving.threads import in_words

LOOK_SECONDS = 1.0
"""Between two looks at whether there is anything to hand over."""
ANSWER_SECONDS = 30.0
"""For one call: all replicas make theirs at once when a directory has restarted."""
MOST_PAUSE_SECONDS = 60.0
"""Between two calls that failed; the pause doubles each time up to this."""

logger = logging.getLogger(__name__)


class StatisticsClient(Protocol):
    """What gathers them: ``RemoteExperts``."""

    @property
    def has_statistics(self) -> bool:
        """Whether a window of statistics has ended."""
        ...

    def take_statistics(self) -> Gathered | None: ...


class StatisticsSync:
    """One replica's.

    Args:
        client: the replica's experts client.
        replica: its name.
        digest: of the checkpoint it has loaded; asked before each call.
        call: hands a report to the directory.
    """

    def __init__(
        self,
        client: StatisticsClient,
        replica: str,
        digest: Callable[[], str | None],
        call: Callable[[StatisticsReport], Awaitable[StatisticsHeard]],
    ) -> None:
        self._client = client
        self._replica = replica
        self._digest = digest
        self._call = call
        self._exchange = StatisticsExchange()

    @property
    def legacy_version(self) -> int:
        """Of what the replica keeps for those that are gone; 0 for none."""
        return self._exchange.legacy_version

    def hear(self, known: StatisticsKnown | None) -> None:
        """What the directory has, by its answer to a report; None where it takes none."""
        self._exchange.hear(known)

    async def run(self) -> None:
        """Hand them over until cancelled."""
        pause = LOOK_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                await self.turn()
            except Exception as error:  # noqa: BLE001 - a call may fail in any way, and the replica must outlive each
                if pause == LOOK_SECONDS:
                    logger.warning("statistics do not reach the directory; tried again: %s", in_words(error))
                pause = min(2 * pause, MOST_PAUSE_SECONDS)
            else:
                pause = LOOK_SECONDS

    async def turn(self) -> None:
        """Take a window that has ended, once the one before has arrived, and hand over what the directory lacks.

        Raises:
            TimeoutError: the directory did not answer.
            Exception: whatever the client or the call raises.
        """
        if self._exchange.is_delivered and self._client.has_statistics:
            self._exchange.keep(await asyncio.to_thread(self._client.take_statistics))
        if not self._exchange.is_due:
            return
        async with asyncio.timeout(ANSWER_SECONDS):
            heard = await self._call(StatisticsReport(self._replica, self._digest(), self._exchange.tell()))
        self._exchange.hear(heard.known, heard.legacy)
