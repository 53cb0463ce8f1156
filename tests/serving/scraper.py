"""A reader of ``/metrics`` that fails as soon as a counter falls: Prometheus takes that for a restart."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from plane import Plane

_PERIOD_S = 0.1


class Scraper:
    """Reads again and again while its block runs; a counter that falls ends the block with an AssertionError.

    Attributes:
        last: value of every sample, as last told.
        scrapes: how often it was answered.
    """

    def __init__(self, plane: Plane) -> None:
        self.last: dict[str, float] = {}
        self.scrapes = 0
        self._plane = plane

    async def wait(self, condition: Callable[[dict[str, float]], object], what: str, seconds: float = 120) -> None:
        """Until ``condition(last)``."""
        end = time.monotonic() + seconds
        while not condition(self.last):
            assert not self._task.done(), f"it ended while waiting for {what}: {self._task}"
            assert time.monotonic() < end, f"waited {seconds} s for {what}; last told: {self.last}"
            await asyncio.sleep(_PERIOD_S)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            status, text = await asyncio.to_thread(self._plane.get, "/metrics")
            if status == 200:  # one that was under way in an api that is killed is not answered
                self._take(text)
            await asyncio.sleep(_PERIOD_S)

    def _take(self, text: str) -> None:
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        told = {name: float(value) for name, value in lines}
        counters = {name for name in told if name.split("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))}
        fallen = {name: (self.last[name], told[name]) for name in counters if told[name] < self.last.get(name, 0.0)}
        assert not fallen, f"counters fell: {fallen}"
        self.last |= told
        self.scrapes += 1
