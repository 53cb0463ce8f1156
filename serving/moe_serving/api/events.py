"""Server-sent events: a generation as the stream of chunks that OpenAI's clients read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from moe_serving.api.errors import ApiError
from moe_serving.api.generation import Generation, Indexed
from moe_serving.api.responses import Format


class EventStream(StreamingResponse):
    """Streams a generation whose first piece is known already; ends it whatever becomes of the client."""

    def __init__(self, generation: Generation, first: Indexed, words: Format, with_usage: bool) -> None:
        chunks = _chunks(generation, first, words, with_usage)
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generation.aclose()


async def _chunks(generation: Generation, first: Indexed, words: Format, with_usage: bool) -> AsyncGenerator[str, None]:
    for choice in generation.plan.choices:
        opening = words.opening(choice.index)
        if opening is not None:
            yield _event(opening)
    yield _event(words.chunk(*first))
    try:
        async for index, piece in generation:
            yield _event(words.chunk(index, piece))
    except ApiError as error:
        # The status is long sent: the error object is the last event, and there is no [DONE].
        yield _event(error.body())
        return
    if with_usage:
        yield _event(words.usage_chunk(generation.usage))
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"
