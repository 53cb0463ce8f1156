"""Clients that keep asking while something happens, and a comparison of every answer with the reference's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from exactness import Tally, compare
from openai import AsyncOpenAI, OpenAI
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
        self.answers: list[tuple[Tokens, Tokens]] = []
        self._client = AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=120)
        self._prompts = prompts
        self._tokens = tokens
        self._stop = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        self._workers = [asyncio.create_task(self._keep_asking(prompt)) for prompt in self._prompts]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the streams under way come to their ends; the first failure of any is raised."""
        self._stop.set()
        try:
            await asyncio.gather(*self._workers)
        finally:
            await self._client.close()

    async def flow(self) -> None:
        """Until as many more answers are complete as there are streams; a failure of any is raised at once."""
        enough = len(self.answers) + len(self._prompts)
        async with asyncio.timeout(120):
            while len(self.answers) < enough:
                done, _ = await asyncio.wait(self._workers, timeout=0.1)
                for worker in done:
                    worker.result()

    async def _keep_asking(self, prompt: Tokens) -> None:
        while not self._stop.is_set():
            stream = await self._client.completions.create(
                model="tiny",
                prompt=list(prompt),
                max_tokens=self._tokens,
                temperature=0,
                stream=True,
                extra_body=GREEDY,
            )
            told: list[int] = []
            async for chunk in stream:
                told += chunk.choices[0].token_ids  # type: ignore[attr-defined]  # our extension
            assert chunk.choices[0].finish_reason == "length"
            self.answers.append((prompt, tuple(told)))


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
