"""Until when answers may go on in a pod that was asked to end. No Ray is imported here: it runs in Serve's proxy."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable
from pathlib import Path

from moe_contract.pods import LEAVING_FILE_VARIABLE

PERIOD_SECONDS = 1.0
"""How often the file is looked for while there are answers under way, or a connection waits for its next request."""


def may_come() -> bool:
    """Whether this process is in a pod in which somebody writes the file."""
    return LEAVING_FILE_VARIABLE in os.environ


def ends_at() -> float | None:
    """Unix time at which answers under way are ended; None while the pod stays."""
    path = os.environ.get(LEAVING_FILE_VARIABLE)
    if path is None:
        return None
    try:
        return float(Path(path).read_text())
    except (OSError, ValueError):  # it is not there, or being written
        return None


class UnderWay:
    """Answers of this process that are under way."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._watch: asyncio.Task[None] | None = None

    async def bounded(self, answer: Awaitable[None]) -> None:
        """Await ``answer`` until it ends, or until this pod has no more time for it."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                self._limits.add(limit)
                self._begin_to_watch()
                await answer
        except TimeoutError:
            if not limit.expired():
                raise
        finally:
            self._limits.discard(limit)

    def _begin_to_watch(self) -> None:
        if may_come() and (self._watch is None or self._watch.done()):
            self._watch = asyncio.create_task(self._bound_all())

    async def _bound_all(self) -> None:
        loop = asyncio.get_running_loop()
        while self._limits:
            if (end := ends_at()) is not None:
                for limit in (each for each in self._limits if not each.expired()):
                    limit.reschedule(loop.time() + end - time.time())
            await asyncio.sleep(PERIOD_SECONDS)
