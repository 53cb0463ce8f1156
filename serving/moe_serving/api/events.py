"""Server-sent events: a generation as the stream of chunks that OpenAI's clients read."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from moe_serving.api.chunks import DONE, Chunks, event
from moe_serving.api.errors import ApiError
from moe_serving.api.generation import Batch, Generation
from moe_serving.api.responses import Format, Usage
from moe_serving.api.schemas import GenerationParameters

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second asks proxies (nginx, ingress-nginx, Traefik) not to collect a stream before they hand it on."""


class EventStream(StreamingResponse):
    """Streams a generation whose first pieces are known already; ends it whatever becomes of the client."""

    def __init__(
        self,
        generation: Generation,
        first: Batch,
        words: Format,
        body: GenerationParameters,
        headers: dict[str, str],
    ) -> None:
        parts = _parts(generation, first, words, body)
        super().__init__(parts, media_type="text/event-stream", headers=_HEADERS | headers)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generation.aclose()


async def _parts(
    generation: Generation, first: Batch, words: Format, body: GenerationParameters
) -> AsyncGenerator[str, None]:
    """The events, those that are ready together as one part: each part is a message of its own on all of its way."""
    choices = generation.prepared.choices
    chunks = {choice.index: Chunks(words, choice.index) for choice in choices}
    unfinished = len(choices)

    def told(batch: Batch) -> str:
        nonlocal unfinished
        unfinished -= sum(piece.finish is not None for _, piece in batch)
        usage = generation.usage if body.wants_usage_always else None
        events = "".join(chunks[index].events(piece, usage) for index, piece in batch)
        return events if unfinished else events + _end(generation.usage if body.wants_usage else None, words)

    openings = (words.opening(choice.index) for choice in choices)
    try:
        yield "".join(event(opening) for opening in openings if opening is not None) + told(first)
        async for batch in generation:
            yield told(batch)
    except ApiError as error:
        # The status is long sent: the error object is the last event, and there is no [DONE].
        yield event(error.body())


def _end(usage: Usage | None, words: Format) -> str:
    return (event(words.usage_chunk(usage)) if usage is not None else "") + DONE
