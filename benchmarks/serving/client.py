"""One streamed request and what became of it, by the strictest reading: nothing is tried twice, nothing is forgiven."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import TracebackType
from typing import Any, Protocol, Self

import aiohttp

Tokens = tuple[int, ...]

LIMIT_S = 120.0
"""For a whole answer."""


class Verdict(StrEnum):
    """COMPLETE: an answer to its end. REFUSED: 429 with Retry-After. CUT_OFF: by the measurement. FAILED: all else."""

    COMPLETE = "complete"
    REFUSED = "refused"
    FAILED = "failed"
    CUT_OFF = "cut off"


@dataclass(frozen=True, slots=True)
class Ask:
    """A greedy request for exactly ``max_tokens`` tokens behind ``prompt``."""

    prompt: Tokens
    max_tokens: int


@dataclass(slots=True)
class Outcome:
    """What became of one request.

    Attributes:
        begun, first, ended: ``time.monotonic()`` at the request, its first token and its end.
        gaps: seconds from one event with tokens to the next, divided by the tokens of the later one.
        pause, paused_at: the longest silence before a token, the first one too, and when it began.
        token_ids: as far as the server tells them.
        api: which process answered, where the server tells it.
        why: it failed, in words.
        retry_after_s: when it may come again, where it was refused.
    """

    ask: Ask
    begun: float
    verdict: Verdict = Verdict.CUT_OFF
    why: str = ""
    first: float | None = None
    ended: float = 0.0
    gaps: list[float] = field(default_factory=list)
    pause: float = 0.0
    paused_at: float = 0.0
    token_ids: list[int] = field(default_factory=list)
    api: str = ""
    retry_after_s: float = 0.0

    def note(self, ids: Sequence[int], count: int, last: float) -> float:
        """``count`` tokens have come, ``last`` being when those before did; returns when that is."""
        now = time.monotonic()
        if now - last > self.pause:
            self.pause, self.paused_at = now - last, last
        if self.first is None:
            self.first = now
        else:
            self.gaps.append((now - last) / count)
        self.token_ids += ids
        return now


class Asked(Protocol):
    """Whatever answers requests: a server by HTTP, or an engine in this process."""

    async def ask(self, ask: Ask) -> Outcome:
        """Never raises, but when it is cancelled."""
        ...


class Client:
    """Asks one server; an async context manager.

    Args:
        url: of the API, with ``/v1`` at its end.
    """

    def __init__(self, url: str, model: str, key: str = "none") -> None:
        self._url = f"{url}/completions"
        self._model = model
        self._headers = {"Authorization": f"Bearer {key}"}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # As many connections as there are requests: a pool with a bound would be a queue that nobody measures.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=LIMIT_S), headers=self._headers
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, ask: Ask) -> Outcome:
        """Never raises, but when it is cancelled."""
        outcome = Outcome(ask, time.monotonic())
        await self.follow(outcome)
        return outcome

    async def follow(self, outcome: Outcome) -> None:
        """Send what ``outcome`` asks and file in it what comes; cancelling leaves it cut off."""
        if self._session is None:
            raise RuntimeError("the client has not been entered")
        try:
            async with self._session.post(self._url, json=self._body(outcome.ask)) as response:
                await _read(response, outcome)
        except (aiohttp.ClientError, TimeoutError, ValueError, LookupError, TypeError) as error:
            outcome.verdict, outcome.why = Verdict.FAILED, f"{type(error).__name__}: {error}"
        finally:
            outcome.ended = time.monotonic()

    def _body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": self._model,
            "prompt": ask.prompt,
            "max_tokens": ask.max_tokens,
            "temperature": 0,
            "stream": True,
            "ignore_eos": True,
            "return_token_ids": True,
        }


async def _read(response: aiohttp.ClientResponse, outcome: Outcome) -> None:
    outcome.api = response.headers.get("x-moe-api", "")
    if response.status != 200:
        again = response.headers.get("Retry-After", "") if response.status == 429 else ""
        outcome.verdict = Verdict.REFUSED if again.isdecimal() else Verdict.FAILED
        outcome.retry_after_s = float(again) if again.isdecimal() else 0.0
        outcome.why = f"{response.status}: {(await response.text())[:300]}"
        return
    finish, last = None, outcome.begun
    async for text in _events(response):
        if text == "[DONE]":
            outcome.verdict = Verdict.COMPLETE if finish in ("stop", "length") else Verdict.FAILED
            outcome.why = "" if outcome.verdict is Verdict.COMPLETE else f"finish_reason is {finish!r}"
            return
        event = json.loads(text)
        if "error" in event:
            outcome.verdict, outcome.why = Verdict.FAILED, f"error event: {str(event['error'])[:300]}"
            return
        for choice in event["choices"]:
            finish = choice.get("finish_reason") or finish
            last = _file(choice, outcome, last)
    outcome.verdict, outcome.why = Verdict.FAILED, "the stream ended without [DONE]"


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    """The data of server-sent events, each of which is one line of every OpenAI server."""
    async for line in response.content:
        if line.startswith(b"data:"):
            yield line[5:].decode().strip()


def _file(choice: dict[str, Any], outcome: Outcome, last: float) -> float:
    """Note the tokens of a chunk; returns when the last tokens came."""
    ids = choice.get("token_ids") or []
    # A server that tells no ids sends about a token a chunk.
    count = len(ids) or bool(choice.get("text"))
    return outcome.note(ids, count, last) if count else last
