"""Streams that all run at once, and what api and client spent on a token of theirs."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.api_cost.place import Place
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
    offered: tokens a second that the stand-in makes.
    tokens_per_second: as they came to the client, from the first request to the last token.
    tokens_per_event: of the streams; more than 1 where tokens were ready together.
    api_ms: processor time of the api's process for a token, its part of a request included.
    client_ms: of the client.
    """

    offered: int
    tokens_per_second: float
    tokens_per_event: float
    api_ms: float
    client_ms: float


def run(place: Place, load: Load, ids: Sequence[int]) -> Row:
    """
    Args:
        ids: what is answered, see ``stand_in.text_ids``.

    Raises:
        RuntimeError: an answer is not complete, or another one.
    """
    ask = Ask(prompt(load.steps_per_second, PROMPT), load.tokens)
    (api, client), begun = place.cpu_seconds(), time.monotonic()
    outcomes = asyncio.run(_ask(place.url, [ask] * load.streams))
    seconds, (api_after, client_after) = time.monotonic() - begun, place.cpu_seconds()
    _check(outcomes, [ids[number % len(ids)] for number in range(load.tokens)])
    tokens = load.streams * load.tokens
    return Row(
        load.streams * load.steps_per_second,
        tokens / seconds,
        tokens / sum(len(outcome.gaps) + 1 for outcome in outcomes),
        (api_after - api) / tokens * 1e3,
        (client_after - client) / tokens * 1e3,
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
    """Of rounds with the same load."""

    def of(value: Callable[[Row], float]) -> float:
        return statistics.median(map(value, rows))

    return Row(
        rows[0].offered,
        of(lambda row: row.tokens_per_second),
        of(lambda row: row.tokens_per_event),
        of(lambda row: row.api_ms),
        of(lambda row: row.client_ms),
    )
