"""Clients that keep asking while something happens, and a comparison of every answer with the reference's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.serving.client import Ask, Client, Verdict
from benchmarks.serving.traffic import ClosedLoop, streams_of
from exactness import Tally, compare
from openai import OpenAI
from reference import reference_greedy

Tokens = tuple[int, ...]
VOCABULARY = 4096
"""Of the repository's model."""
GREEDY = {"ignore_eos": True, "return_token_ids": True}


class Load:
    """As many streams at a time as there are prompts, greedy, each followed by the next; nothing is tried again.

    Attributes:
        answers: of each prompt, in order of their ends.
    """

    def __init__(self, url: str, key: str, prompts: Sequence[Tokens], tokens: int) -> None:
        self._client = Client(f"{url}/v1", "tiny", key)
        self._loop = ClosedLoop(self._client, streams_of([Ask(prompt, tokens) for prompt in prompts]))
        self._streams = len(prompts)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        await self._loop.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the streams under way come to their ends; a failure of any is raised."""
        try:
            await self._loop.__aexit__(kind, error, trace)
        finally:
            await self._client.__aexit__(kind, error, trace)
        self._check()

    @property
    def answers(self) -> list[tuple[Tokens, Tokens]]:
        return [(outcome.ask.prompt, tuple(outcome.token_ids)) for outcome in self._loop.outcomes]

    async def flow(self) -> None:
        """Until as many more answers are complete as there are streams; a failure of any is raised at once."""
        enough = len(self._loop.outcomes) + self._streams
        async with asyncio.timeout(120):
            while len(self._loop.outcomes) < enough:
                await asyncio.sleep(0.1)
                self._check()

    def _check(self) -> None:
        failed = [outcome for outcome in self._loop.outcomes if outcome.verdict is not Verdict.COMPLETE]
        assert not failed, f"{len(failed)} of {len(self._loop.outcomes)} requests: {failed[0].why}"


def complete(client: OpenAI, prompt: Tokens, tokens: int) -> Tokens:
    """One greedy answer as token ids."""
    answer = client.completions.create(
        model="tiny", prompt=list(prompt), max_tokens=tokens, temperature=0, extra_body=GREEDY
    )
    return tuple(answer.choices[0].token_ids)  # type: ignore[attr-defined]  # our extension


def complete_all(
    client: OpenAI, prompts: Sequence[Tokens], tokens: int, at_once: int = 8
) -> list[tuple[Tokens, Tokens]]:
    """Greedy answers to all prompts, ``at_once`` of them at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(zip(prompts, pool.map(lambda prompt: complete(client, prompt, tokens), prompts), strict=True))


def compare_with_reference(path: Path, client: OpenAI, answers: Sequence[tuple[Tokens, Tokens]], tokens: int) -> Tally:
    """Every distinct answer against the unsharded model in plain transformers; see ``exactness``."""
    tally = Tally()
    for prompt, actual in sorted(set(answers)):
        (expected,) = reference_greedy(path, [prompt], tokens)

        def resume(told: Tokens, prompt: Tokens = prompt) -> Tokens:
            rest = tokens - len(told)
            return complete(client, prompt + told, rest) if rest else ()

        compare(path, prompt, expected, actual, resume, tally)
    tally.check()
    return tally
