"""Streams that all run at once, and what each process spent on a token of theirs."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.api_cost.place import CLIENT, OURS, PROXY, Place
from benchmarks.api_cost.stand_in import SERVED_NAME, prompt
from benchmarks.serving.client import Ask, Client, Outcome, Verdict

PROMPT = 16
"""Tokens of each."""


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` answers of ``tokens`` tokens, a token of each in every step."""

    streams: int
    tokens: int
    steps_per_second: int


@dataclass(frozen=True, slots=True)
class Row:
    """Attributes:
    front: what stands between api and client.
    offered: tokens a second that the stand-in makes.
    tokens_per_second: as they came to the client, from the first request to the last token.
    tokens_per_event: of the streams; more than 1 where tokens were ready together.
    api_ms: processor time of the api's process for a token, its part of a request included.
    proxy_ms: of Serve's proxy, where tokens pass through it.
    client_ms: of the client.
    """

    front: str
    offered: int
    tokens_per_second: float
    tokens_per_event: float
    api_ms: float
    proxy_ms: float | None
    client_ms: float


def run(front: str, place: Place, load: Load, ids: Sequence[int]) -> Row:
    """
    Args:
        ids: what is answered, see ``stand_in.text_ids``.

    Raises:
        RuntimeError: an answer is not complete, or another one.
    """
    ask = Ask(prompt(load.steps_per_second, PROMPT), load.tokens)
    before, begun = place.cpu_seconds(), time.monotonic()
    outcomes = asyncio.run(_ask(place.url, [ask] * load.streams))
    seconds, after = time.monotonic() - begun, place.cpu_seconds()
    _check(outcomes, [ids[number % len(ids)] for number in range(load.tokens)])
    tokens = load.streams * load.tokens
    spent = {name: (after[name] - before[name]) / tokens * 1e3 for name in after}
    return Row(
        front,
        load.streams * load.steps_per_second,
        tokens / seconds,
        tokens / sum(len(outcome.gaps) + 1 for outcome in outcomes),
        spent[OURS],
        spent.get(PROXY),
        spent[CLIENT],
    )


async def _ask(url: str, asks: Sequence[Ask]) -> list[Outcome]:
    async with Client(url, SERVED_NAME) as client:
        return await asyncio.gather(*map(client.ask, asks))


def _check(outcomes: Sequence[Outcome], expected: list[int]) -> None:
    for outcome in outcomes:
        if outcome.verdict is not Verdict.COMPLETE:
            raise RuntimeError(f"an answer is {outcome.verdict}: {outcome.why}")
        if outcome.token_ids != expected:
            raise RuntimeError(f"another answer than the stand-in's: {outcome.token_ids[:20]} … of {expected[:20]} …")


def median(rows: Sequence[Row]) -> Row:
    """Of rounds with the same front and load."""

    def of(value: Callable[[Row], float]) -> float:
        return statistics.median(map(value, rows))

    proxy = [row.proxy_ms for row in rows if row.proxy_ms is not None]
    return Row(
        rows[0].front,
        rows[0].offered,
        of(lambda row: row.tokens_per_second),
        of(lambda row: row.tokens_per_event),
        of(lambda row: row.api_ms),
        statistics.median(proxy) if proxy else None,
        of(lambda row: row.client_ms),
    )
