"""When what is asked: a closed loop of streams, or arrivals that do not wait for anybody (Poisson)."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from benchmarks.serving.client import Ask, Asked, Client, Outcome, Verdict


@dataclass(frozen=True, slots=True)
class Mix:
    """Requests of many lengths, the same for the same seed.

    Attributes:
        prompt, answer: least and largest number of tokens; drawn evenly on a logarithmic scale, so that short ones are
            many and long ones are there.
        distinct: different requests; each is asked again and again, so that a reference for all is soon computed.
        vocabulary: token ids are drawn below it, and not from the first ten, where special ones are.
    """

    prompt: tuple[int, int] = (8, 256)
    answer: tuple[int, int] = (8, 128)
    distinct: int = 64
    vocabulary: int = 4096
    seed: int = 0

    def asks(self) -> list[Ask]:
        draw = random.Random(self.seed)
        return [
            Ask(
                tuple(draw.randrange(10, self.vocabulary) for _ in range(_between(draw, *self.prompt))),
                _between(draw, *self.answer),
            )
            for _ in range(self.distinct)
        ]

    def endless(self) -> Iterator[Ask]:
        """Each request once, in an order that differs from round to round, for ever."""
        asks, draw = self.asks(), random.Random(self.seed + 1)
        while True:
            yield from draw.sample(asks, len(asks))


@dataclass(frozen=True, slots=True)
class Phase:
    """``seconds`` of arrivals at ``rate`` a second."""

    name: str
    rate: float
    seconds: float


class ClosedLoop:
    """Streams that each ask again as soon as they are answered, or may come again; an async context manager.

    Attributes:
        outcomes: in order of their ends.
    """

    def __init__(self, client: Asked, streams: Sequence[Iterator[Ask]]) -> None:
        self.outcomes: list[Outcome] = []
        self._client = client
        self._streams = streams
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._run(asks)) for asks in self._streams]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the requests under way come to their ends."""
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def _run(self, asks: Iterator[Ask]) -> None:
        for ask in asks:
            if self._stop.is_set():
                return
            outcome = await self._client.ask(ask)
            self.outcomes.append(outcome)
            if outcome.verdict is Verdict.REFUSED:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), outcome.retry_after_s)


async def closed_loop(client: Client, mix: Mix, streams: int, seconds: float) -> list[Outcome]:
    """``streams`` at a time for ``seconds``, then the rest of those under way."""
    asks = mix.endless()
    async with ClosedLoop(client, [asks] * streams) as loop:
        await asyncio.sleep(seconds)
    return loop.outcomes


async def poisson(
    client: Client, asks: Iterator[Ask], phases: Sequence[Phase], seed: int, drain_s: float = math.inf
) -> list[Outcome]:
    """Arrivals with exponential pauses, phase after phase, then up to ``drain_s`` for those under way.

    Returns:
        One outcome for each arrival, in order of arrival.
    """
    draw, outcomes, tasks = random.Random(seed), list[Outcome](), list[asyncio.Task[None]]()
    end = time.monotonic()
    for phase in phases:
        due, end = end, end + phase.seconds
        while (due := due + draw.expovariate(phase.rate)) < end:
            # Late arrivals are not put off: a generator that waits for its server measures itself.
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            outcomes.append(Outcome(next(asks), time.monotonic()))
            tasks.append(asyncio.create_task(client.follow(outcomes[-1])))
        await asyncio.sleep(max(0.0, end - time.monotonic()))
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=None if math.isinf(drain_s) else drain_s)
        for task in late:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return outcomes


def streams_of(asks: Sequence[Ask]) -> list[Iterator[Ask]]:
    """For a ``ClosedLoop`` in which each stream repeats its own request."""
    return [itertools.repeat(ask) for ask in asks]


def _between(draw: random.Random, least: int, largest: int) -> int:
    return round(math.exp(draw.uniform(math.log(least), math.log(largest))))
