"""Calls from process to process over one connection: any number at a time, with arguments and answers of any type.

A call by a handle of Ray Serve costs either side some 3 ms of processor time, which is a lot for processes that assure
each other every second that nothing is new; one of these takes 0.4 ms. Where a process is, Serve's handles
still say (``caller``).

Values are pickled, as Ray does it; fields of another release are read as ``values`` says. A body begins with an HMAC by
the listener's key, for unpickling runs code: of nobody who does not hold the key. Whoever calls bounds its own
patience. A call that it gives up is cancelled at the other end too, and all calls of a connection end with it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
import logging
import pickle
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from moe_contract.applications import Network
from moe_serving.errors import MoEServingError
from moe_serving.threads import in_words
from moe_serving.wire.aio import Connection, Listener, connect
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import ConnectionLostError, ProtocolError, WireError
from moe_serving.wire.frames import RELEASE, Buffer, Frame
from moe_serving.wire.handshake import releases
from moe_serving.wire.kinds import CallKind
from moe_serving.wire.values import unpacked

MOST_CALLS = 256
"""Under way at once by one connection. There are one or two; a peer that never ends any must not pile them up."""
MAX_BODY = 1 << 28
"""Bytes of one call or answer: above the counts and tables of the largest model."""

_SUBJECT = "calls"
_MAC_SIZE = hashlib.sha256().digest_size

logger = logging.getLogger(__name__)

Method = Callable[..., Awaitable[Any]]


class CallFailedError(MoEServingError):
    """What was called has raised; the message says what."""


class CallServer:
    """Answers calls of ``methods`` by their names."""

    def __init__(self, key: bytes, methods: Mapping[str, Method]) -> None:
        self._key = key
        self._methods = methods
        self._listener: Listener | None = None

    @classmethod
    async def start(cls, endpoint: Endpoint, methods: Mapping[str, Method]) -> CallServer:
        """``endpoint`` is owned from now on."""
        server = cls(endpoint.address.key, methods)
        server._listener = await Listener.start(endpoint, _SUBJECT, server._serve, MAX_BODY)
        return server

    async def close(self) -> None:
        """Close all connections; what is being answered is cancelled."""
        if self._listener is not None:
            await self._listener.close()

    async def _serve(self, connection: Connection) -> None:
        running: dict[int, asyncio.Task[None]] = {}
        try:
            while True:
                frame = await connection.receive()
                if frame.kind == CallKind.CANCEL:
                    if (cancelled := running.get(frame.tag)) is not None:
                        cancelled.cancel()
                    continue
                if frame.kind != CallKind.CALL or frame.tag in running or len(running) >= MOST_CALLS:
                    raise ProtocolError(f"expected a call, got a frame of kind {frame.kind:#x} beside {len(running)}")
                name, arguments = _open(self._key, frame, connection.peer_release)
                running[frame.tag] = task = asyncio.create_task(self._answer(connection, frame.tag, name, arguments))
                task.add_done_callback(lambda _, tag=frame.tag: running.pop(tag))  # type: ignore[misc]  # binds it now
        finally:
            for task in running.values():
                task.cancel()

    async def _answer(self, connection: Connection, tag: int, name: str, arguments: tuple[Any, ...]) -> None:
        try:
            kind, said = CallKind.ANSWER, await self._methods[name](*arguments)
        except Exception as error:
            if not isinstance(error, MoEServingError):
                logger.exception("a call of %s by %s failed", name, connection.peer_name)
            kind, said = CallKind.FAILURE, in_words(error)
        try:
            await connection.send(kind, *_seal(self._key, kind, tag, said), tag=tag)
        except ConnectionLostError as error:
            logger.debug("nobody waits for the answer of %s any more: %s", name, error)


class CallConnection:
    """Calls one ``CallServer``.

    Attributes:
        address: where it listens.
    """

    def __init__(self, connection: Connection, address: Address) -> None:
        self.address = address
        self._connection = connection
        self._key = address.key
        self._tags = itertools.cycle(range(1 << 32))
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, address: Address, name: str, node: str, network: Network) -> CallConnection:
        """
        Args:
            name: who we are, for the other's log.
            node: the node we run on.

        Raises:
            WireError: it cannot be reached.
        """
        connection = await connect(address, _SUBJECT, name, node=node, network=network, max_body=MAX_BODY)
        return cls(connection, address)

    @property
    def lost(self) -> bool:
        """Whether no call can be answered any more."""
        return self._reading.done()

    async def call(self, method: str, *arguments: Any) -> Any:
        """
        Raises:
            CallFailedError: the method raised.
            WireError: the connection is lost.
        """
        if self.lost:
            raise ConnectionLostError("the connection is closed")
        tag = next(self._tags)
        answer = self._waiting[tag] = asyncio.get_running_loop().create_future()
        try:
            body = _seal(self._key, CallKind.CALL, tag, (method, arguments))
            await self._connection.send(CallKind.CALL, *body, tag=tag)
            return await answer
        except asyncio.CancelledError:
            self._connection.post(CallKind.CANCEL, tag=tag)
            raise
        finally:
            del self._waiting[tag]
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # it may have come while the call was being given up

    def close(self) -> None:
        """At once; calls under way fail."""
        self._connection.abort()

    async def _read(self) -> None:
        lost: WireError = ConnectionLostError("the connection was closed")
        try:
            while True:
                self._take(await self._connection.receive())
        except WireError as error:
            lost = error
        finally:
            self._connection.abort()
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(ConnectionLostError(f"no answer: {lost}"))

    def _take(self, frame: Frame) -> None:
        """Answers that nobody waits for any more are dropped."""
        if frame.kind not in (CallKind.ANSWER, CallKind.FAILURE):
            raise ProtocolError(f"expected an answer, got a frame of kind {frame.kind:#x}")
        answer = self._waiting.get(frame.tag)
        if answer is None or answer.done():
            return
        said = _open(self._key, frame, self._connection.peer_release)
        if frame.kind == CallKind.ANSWER:
            answer.set_result(said)
        else:
            answer.set_exception(CallFailedError(said))


def _seal(key: bytes, kind: CallKind, tag: int, value: Any) -> tuple[Buffer, ...]:
    body = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return _mac(key, kind, tag, body), body


def _open(key: bytes, frame: Frame, peer_release: str) -> Any:
    """
    Raises:
        ProtocolError: it was not sealed with ``key``, for this kind and tag; or it cannot be read.
    """
    mac, body = frame.body[:_MAC_SIZE], frame.body[_MAC_SIZE:]
    if not hmac.compare_digest(mac, _mac(key, frame.kind, frame.tag, body)):
        raise ProtocolError("a body that does not bear the listener's key")
    try:
        return unpacked(body)
    except Exception as error:
        both = releases(RELEASE, peer_release)
        raise ProtocolError(f"a value that cannot be read ({in_words(error)}): {both}; run one release") from error


def _mac(key: bytes, kind: int, tag: int, body: Buffer) -> bytes:
    mac = hmac.new(key, b"%d %d " % (kind, tag), hashlib.sha256)
    mac.update(body)
    return mac.digest()
