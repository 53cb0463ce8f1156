"""Runs the answers of one HTTP request side by side and tells their pieces as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from moe_serving.api.answer import Piece
from moe_serving.api.errors import GenerationError
from moe_serving.api.metrics import RequestTimer, ServingMetrics
from moe_serving.api.preparation import Choice, Prepared
from moe_serving.api.responses import Usage
from moe_serving.api.source import TokenSource

Indexed = tuple[int, Piece]
Batch = list[Indexed]
"""What is ready at the same time: it leaves together. At least one piece."""


class Generation:
    """One HTTP request being answered. ``aclose`` at any time cancels what is still running."""

    def __init__(self, source: TokenSource, prepared: Prepared, metrics: ServingMetrics) -> None:
        self.prepared = prepared
        self._source = source
        self._metrics = metrics
        self._not_taken = {choice.index for choice in prepared.choices}
        self._decided = asyncio.Event()
        self._failure: Exception | None = None
        self._batches = self._alone(prepared.choices[0]) if len(prepared.choices) == 1 else self._side_by_side()

    def __aiter__(self) -> AsyncGenerator[Batch, None]:
        return self._batches

    async def aclose(self) -> None:
        await self._batches.aclose()

    @property
    def usage(self) -> Usage:
        return Usage(self.prepared.prompt_tokens, sum(choice.answer.tokens for choice in self.prepared.choices))

    async def _alone(self, choice: Choice) -> AsyncGenerator[Batch, None]:
        """Of the only answer, without a task and a queue for each of its tokens."""
        self._metrics.prompt_tokens.inc(self.prepared.prompt_tokens)
        async with aclosing(self._pieces_of(choice)) as pieces:
            async for piece in pieces:
                yield [(choice.index, piece)]

    async def _side_by_side(self) -> AsyncGenerator[Batch, None]:
        # One place per answer: a client that reads slowly leaves its tokens in the source, which bounds and joins them.
        ready: asyncio.Queue[Indexed | Exception] = asyncio.Queue(maxsize=len(self.prepared.choices))
        tasks = [asyncio.create_task(self._answer(choice, ready)) for choice in self.prepared.choices]
        unfinished = len(tasks)
        self._metrics.prompt_tokens.inc(self.prepared.prompt_tokens)
        try:
            # A status goes out with the first piece: before it, it is known that no answer is turned away.
            await self._decided.wait()
            if self._failure is not None:
                raise self._failure
            while unfinished:
                batch, failure = _all_of(ready, await ready.get())
                if batch:
                    unfinished -= sum(piece.finish is not None for _, piece in batch)
                    yield batch
                if failure is not None:
                    raise failure
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, choice: Choice, ready: asyncio.Queue[Indexed | Exception]) -> None:
        try:
            async with aclosing(self._pieces_of(choice)) as pieces:
                async for piece in pieces:
                    await ready.put((choice.index, piece))
        except Exception as error:  # noqa: BLE001 - raised again where the pieces are read
            self._failure = self._failure or error
            self._decided.set()
            await ready.put(error)

    async def _pieces_of(self, choice: Choice) -> AsyncGenerator[Piece, None]:
        opening = choice.opening
        with RequestTimer(self._metrics) as timer:
            async with aclosing(self._source.stream(choice.request)) as events:
                async for event in events:
                    self._take(choice)
                    if opening:
                        yield Piece(opening)
                        opening = ""
                    timer.tokens(len(event.token_ids))
                    piece = choice.answer.push(event)
                    if piece is not None:
                        yield piece
                        if piece.finish:
                            return
        raise GenerationError(f"the stream of request {choice.request.request_id} ended without a reason")

    def _take(self, choice: Choice) -> None:
        self._not_taken.discard(choice.index)
        if not self._not_taken:
            self._decided.set()


def _all_of(ready: asyncio.Queue[Indexed | Exception], item: Indexed | Exception) -> tuple[Batch, Exception | None]:
    """``item`` and what else is ready, up to the first failure."""
    batch: Batch = []
    while not isinstance(item, Exception):
        batch.append(item)
        if ready.empty():
            return batch, None
        item = ready.get_nowait()
    return batch, item
