"""The body of a ``TOKENS`` frame: events of many streams, one after the other. Sans-IO.

An event, little-endian::

    stream u32 | tokens u16 | finish u8 | 0 u8 | error length u16 | token ids u32 … | error, UTF-8
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from moe_serving.engine.request import FinishReason
from moe_serving.wire.errors import ProtocolError

_HEAD = struct.Struct("<IHBxH")
_ONE = struct.Struct("<I")
_FINISH: tuple[FinishReason | None, ...] = (None, "stop", "length", "error")
MAX_STREAM = 2**32 - 1
_MAX_TOKENS = 2**16 - 1
_MAX_ERROR = 4096


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """New tokens of one stream. The first without tokens and ``finish`` says that the call has arrived, the second that
    the request has a place in the queue.

    Attributes:
        stream: number that the api gave the stream.
        finish, error: as in ``TokenEvent``.
    """

    stream: int
    token_ids: tuple[int, ...] = ()
    finish: FinishReason | None = None
    error: str | None = None


def encode_events(events: Iterable[StreamEvent]) -> bytes:
    """The body of one frame."""
    return b"".join(part for event in events for part in _encode(event))


def decode_events(body: memoryview) -> list[StreamEvent]:
    """Inverse of ``encode_events``.

    Raises:
        ProtocolError: the body ends inside an event, or says something unknown.
    """
    events, position = [], 0
    while position < len(body):
        event, position = _decode(body, position)
        events.append(event)
    return events


def _encode(event: StreamEvent) -> Iterable[bytes]:
    error = (event.error or "").encode()[:_MAX_ERROR]
    # More tokens at once than a count can say are two events; the end of the answer comes with the last one.
    ids = event.token_ids
    while len(ids) > _MAX_TOKENS:
        yield _HEAD.pack(event.stream, _MAX_TOKENS, 0, 0) + struct.pack(f"<{_MAX_TOKENS}I", *ids[:_MAX_TOKENS])
        ids = ids[_MAX_TOKENS:]
    yield _HEAD.pack(event.stream, len(ids), _FINISH.index(event.finish), len(error))
    yield struct.pack(f"<{len(ids)}I", *ids)
    yield error


def _decode(body: memoryview, position: int) -> tuple[StreamEvent, int]:
    try:
        stream, count, finish, error_length = _HEAD.unpack_from(body, position)
        position += _HEAD.size
        ids = _ONE.unpack_from(body, position) if count == 1 else struct.unpack_from(f"<{count}I", body, position)
    except struct.error as error:
        raise ProtocolError(f"a body of {len(body)} bytes ends inside an event: {error}") from None
    position += 4 * count
    end = position + error_length
    if end > len(body):
        raise ProtocolError(f"a body of {len(body)} bytes ends inside an error message")
    if finish >= len(_FINISH):
        raise ProtocolError(f"unknown finish reason {finish}")
    message = bytes(body[position:end]).decode(errors="replace") if error_length else None
    return StreamEvent(stream, ids, _FINISH[finish], message), end
