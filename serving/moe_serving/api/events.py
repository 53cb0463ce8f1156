"""Server-sent events: a generation as the stream of chunks that OpenAI's clients read."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from moe_serving.api.answer import Piece
from moe_serving.api.errors import ApiError
from moe_serving.api.generation import Generation, Indexed
from moe_serving.api.responses import Format, Usage
from moe_serving.api.schemas import GenerationParameters

_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
"""The second asks proxies (nginx, ingress-nginx, Traefik) not to collect a stream before they hand it on."""
_LINE_ENDS = str.maketrans({"\u0085": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})
"""JSON may hold them raw; clients that read lines as Python's ``splitlines`` does would cut an event there."""


class EventStream(StreamingResponse):
    """Streams a generation whose first piece is known already; ends it whatever becomes of the client."""

    def __init__(
        self,
        generation: Generation,
        first: Indexed,
        words: Format,
        body: GenerationParameters,
        headers: dict[str, str],
    ) -> None:
        chunks = _chunks(generation, first, words, body)
        super().__init__(chunks, media_type="text/event-stream", headers=_HEADERS | headers)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._generation.aclose()


async def _chunks(
    generation: Generation, first: Indexed, words: Format, body: GenerationParameters
) -> AsyncGenerator[str, None]:
    def usage() -> Usage | None:
        return generation.usage if body.wants_usage_always else None

    for choice in generation.prepared.choices:
        opening = words.opening(choice.index)
        if opening is not None:
            yield _event(opening)
    try:
        for piece in _apart(first[1]):
            yield _event(words.chunk(first[0], piece, usage()))
        async for index, whole in generation:
            for piece in _apart(whole):
                yield _event(words.chunk(index, piece, usage()))
    except ApiError as error:
        # The status is long sent: the error object is the last event, and there is no [DONE].
        yield _event(error.body())
        return
    if body.wants_usage:
        yield _event(words.usage_chunk(generation.usage))
    yield "data: [DONE]\n\n"


def _apart(piece: Piece) -> tuple[Piece, ...]:
    """The reason why an answer ended in a chunk of its own: strict clients read no text where there is one."""
    if piece.finish is None or not piece.text:
        return (piece,)
    return replace(piece, finish=None), Piece("", piece.finish)


def _event(body: dict[str, Any]) -> str:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":")).translate(_LINE_ENDS)
    return f"data: {text}\n\n"
