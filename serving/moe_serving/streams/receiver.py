"""The api's end: a listener for all attention replicas, and one ``TokenStream`` per request under way."""

from __future__ import annotations

import asyncio
import itertools

from moe_contract.applications import Network
from moe_serving.engine.request import TokenEvent
from moe_serving.streams.errors import ReplicaLostError
from moe_serving.streams.messages import MAX_STREAM, StreamEvent, decode_events
from moe_serving.wire.aio import Connection, Listener
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.frames import Frame
from moe_serving.wire.kinds import StreamKind

SUBJECT = "token-streams"
SILENCE_S = 4.0
"""A replica that says nothing for so long is given up: a frozen process keeps its connections. One that works or rests
sends a pulse a second, whatever its step takes; a busy machine may be late with it."""
_GLANCES = 8
"""Silence is counted in so many parts: where this process itself stood still, that counts as one of them."""


class TokenStream:
    """Tokens of one request as they come from one replica. Tokens that nobody has read yet are joined.

    Attributes:
        number: what frames call it.
        taken: set once the call has arrived at a replica.
        carrier: the connection that its first event came by; what comes by another one is of no interest.
    """

    def __init__(self, number: int, request_id: str, max_tokens: int) -> None:
        self.number = number
        self.taken = asyncio.Event()
        self.carrier: Connection | None = None
        self._request_id = request_id
        self._room = max_tokens
        self._ids: list[int] = []
        self._last: StreamEvent | None = None
        self._failure: Exception | None = None
        self._news = asyncio.Event()

    async def next(self) -> TokenEvent:
        """The next event; after one with a ``finish_reason`` there is none.

        Raises:
            ReplicaLostError, or what ``fail`` was given: no more will come; all tokens that did come were told before.
        """
        await self._news.wait()
        self._news.clear()
        ids, self._ids = tuple(self._ids), []
        if self._last is not None:
            return TokenEvent(self._request_id, ids, self._last.finish, self._last.error)
        if self._failure is not None:
            self._news.set()
            if not ids:
                raise self._failure
        return TokenEvent(self._request_id, ids)

    def put(self, event: StreamEvent) -> None:
        """Take an event from the socket. Never waits: what is kept is bounded by the tokens asked for."""
        is_news = bool(event.token_ids or event.finish or self.taken.is_set())  # see ``StreamEvent``
        self.taken.set()
        self._room -= len(event.token_ids)
        if self._room < 0:
            self.fail(ReplicaLostError("the replica sent more tokens than it was asked for"))
            return
        self._ids.extend(event.token_ids)
        if event.finish is not None:
            self._last = event
        if is_news:
            self._news.set()

    def fail(self, error: Exception) -> None:
        """No more will come, for this reason; unless the end has come already."""
        if self._last is None and self._failure is None:
            self._failure = error
            self._news.set()


class StreamReceiver:
    """Files what attention replicas send; knows which replica's connection each stream hangs on."""

    def __init__(self) -> None:
        self._numbers = itertools.cycle(range(MAX_STREAM + 1))
        self._streams: dict[int, TokenStream] = {}
        self._listener: Listener | None = None

    async def start(self, node: str, host: str, network: Network) -> Address:
        """Listen; returns the address to hand out with each request."""
        self._listener = await Listener.start(Endpoint.open(node, host, network), SUBJECT, self._serve)
        return self._listener.address

    async def close(self) -> None:
        """Listen no more and end all streams."""
        if self._listener is not None:
            await self._listener.close()

    def open(self, request_id: str, max_tokens: int) -> TokenStream:
        """A new stream, for at most ``max_tokens`` tokens."""
        stream = TokenStream(next(self._numbers), request_id, max_tokens)
        self._streams[stream.number] = stream
        return stream

    def drop(self, stream: TokenStream) -> None:
        """What still comes for this stream is of no interest."""
        self._streams.pop(stream.number, None)

    def fail_all(self, error: Exception) -> None:
        """See ``TokenStream.fail``."""
        for stream in self._streams.values():
            stream.fail(error)

    async def _serve(self, connection: Connection) -> None:
        why = "is gone"
        try:
            while True:
                frame = await _receive(connection)
                if frame.kind not in (StreamKind.TOKENS, StreamKind.PULSE):
                    raise ProtocolError(f"expected tokens, got a frame of kind {frame.kind:#x}")
                for event in decode_events(frame.body):
                    self._file(event, connection)
        except TimeoutError:
            why = f"has said nothing for {SILENCE_S:g} s"
        finally:
            lost = ReplicaLostError(f"attention replica {connection.peer_name} {why}", connection.peer_name)
            for stream in self._streams.values():
                if stream.carrier is connection:
                    stream.fail(lost)

    def _file(self, event: StreamEvent, connection: Connection) -> None:
        """Whoever spoke first carries a stream. A replica that did not accept a call in time may still begin it when it
        wakes, before it learns that another one was asked instead: its tokens would come between the other's.
        """
        stream = self._streams.get(event.stream)
        if stream is None or stream.carrier not in (None, connection):
            return
        stream.carrier = connection
        stream.put(event)


async def _receive(connection: Connection) -> Frame:
    """The next frame.

    Raises:
        TimeoutError: there was none for ``SILENCE_S``.
        WireError: see ``Connection.receive``.
    """
    for _ in range(_GLANCES - 1):
        try:
            async with asyncio.timeout(SILENCE_S / _GLANCES):
                return await connection.receive()
        except TimeoutError:
            continue
    async with asyncio.timeout(SILENCE_S / _GLANCES):
        return await connection.receive()
