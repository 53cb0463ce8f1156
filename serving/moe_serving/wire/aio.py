"""asyncio driver: the same frames and handshake for processes that live in an event loop.

A server::

    endpoint = Endpoint.open(node, host, network)          # hand endpoint.address out by an actor call
    listener = await Listener.start(endpoint, "token-streams", handle)   # handle(connection) runs per peer

A client::

    connection = await connect(address, "token-streams", name="attention-3", node=node)
    await connection.send(StreamKind.TOKENS, payload)
    frame = await connection.receive()
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Awaitable, Callable

from moe_contract.applications import Network
from moe_serving.wire.channel import Channel
from moe_serving.wire.endpoint import Address, Endpoint, configure
from moe_serving.wire.errors import ConnectionLostError, WireError
from moe_serving.wire.frames import Buffer, Frame, encode

DEFAULT_MAX_BODY = 16 << 20
"""Bytes of the largest body accepted unless told otherwise: far more than the tokens of any step."""
DEFAULT_HANDSHAKE_TIMEOUT = 5.0
"""Seconds for connecting and proving the key: on a healthy network it takes a millisecond, a busy machine may pause."""

_CLOSE_SECONDS = 2.0
"""A frozen peer never reads what was sent to it."""
_REFUSAL_SECONDS = 1.0
_READ_SIZE = 1 << 16

logger = logging.getLogger(__name__)


class Connection:
    """An established connection. One task receives; any number of tasks may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, channel: Channel) -> None:
        self._reader = reader
        self._writer = writer
        self._channel = channel
        self._frames: deque[Frame] = deque()

    @property
    def peer_name(self) -> str:
        """The name that the initiator gave itself; ``listener`` on the initiator's side."""
        return self._channel.peer_name

    @property
    def peer_release(self) -> str:
        """See ``handshake.Handshake``."""
        return self._channel.peer_release

    async def send(self, kind: int, *parts: Buffer, flags: int = 0, tag: int = 0) -> None:
        """Send one frame; waits while the peer reads more slowly than we send.

        Raises:
            ConnectionLostError: the peer is gone.
        """
        self._check_open()
        self._writer.writelines(encode(kind, *parts, flags=flags, tag=tag))
        await self._drain()

    def post(self, kind: int, *, tag: int = 0) -> None:
        """Send an empty frame without waiting, where the peer is still there."""
        if not self._writer.is_closing():
            self._writer.writelines(encode(kind, tag=tag))

    async def receive(self) -> Frame:
        """The next frame.

        Raises:
            ConnectionLostError: end of stream or reset.
            ProtocolError: the peer sent no frame; close the connection.
        """
        while not self._frames:
            self._frames.extend(await self._read())
        return self._frames.popleft()

    async def close(self) -> None:
        """Close; what was sent before is still delivered where the peer reads it within ``_CLOSE_SECONDS``."""
        self._writer.close()
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._writer.wait_closed()
        except TimeoutError:
            self._writer.transport.abort()
        except OSError:
            return  # the peer was faster

    def abort(self) -> None:
        """Close at once; what was not sent yet is lost."""
        self._writer.transport.abort()

    async def shake_hands(self) -> None:
        """Run the handshake to its end; called by ``connect`` and ``Listener`` before anybody sees the connection."""
        try:
            self._configure()
            await self._flush()
            while not self._channel.established:
                self._frames.extend(await self._read())
                await self._flush()
        except WireError:
            await self._flush()
            raise

    def _configure(self) -> None:
        if self._writer.is_closing():
            return  # its descriptor may be another connection's by now
        try:
            configure(self._writer.get_extra_info("socket"))
        except OSError as error:
            raise ConnectionLostError(f"{self.peer_name}: {error}") from error

    async def _read(self) -> list[Frame]:
        try:
            data = await self._reader.read(_READ_SIZE)
        except OSError as error:
            raise ConnectionLostError(f"{self.peer_name}: {error}") from error
        if not data:
            raise ConnectionLostError(f"{self.peer_name} closed the connection")
        return self._channel.feed(data)

    async def _flush(self) -> None:
        self._writer.writelines(self._channel.outbox)
        self._channel.outbox.clear()
        await self._drain()

    async def _drain(self) -> None:
        try:
            await self._writer.drain()
        except OSError as error:
            raise ConnectionLostError(f"{self.peer_name}: {error}") from error

    def _check_open(self) -> None:
        if self._writer.is_closing():
            raise ConnectionLostError(f"the connection to {self.peer_name} is closed")


async def connect(
    address: Address,
    subject: str,
    name: str,
    *,
    node: str = "",
    network: Network = "auto",
    max_body: int = DEFAULT_MAX_BODY,
    timeout: float = DEFAULT_HANDSHAKE_TIMEOUT,  # noqa: ASYNC109 - one bound for connecting and handshake together
) -> Connection:
    """Connect to a listener and shake hands; arguments as in ``blocking.Connection.connect``.

    Raises:
        HandshakeError: refused, or the listener does not hold the key.
        ConnectionLostError: nobody listens, or no answer in time.
    """
    target = address.target(network, node)
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await _open(target)
            connection = Connection(reader, writer, Channel.initiator(address.key, subject, name, max_body))
            try:
                await connection.shake_hands()
            except BaseException:
                writer.close()
                raise
            return connection
    except OSError as error:  # TimeoutError is one
        raise ConnectionLostError(f"cannot connect to {target!r}: {str(error) or 'no answer in time'}") from error


async def refuses(address: Address, *, node: str = "", network: Network = "auto") -> bool:
    """Whether nobody listens there any more: the process has ended, or is about to. One that stands still listens."""
    try:
        async with asyncio.timeout(_REFUSAL_SECONDS):
            _, writer = await _open(address.target(network, node))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    writer.close()
    return False


async def _open(target: str | tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await (_open_unix(target) if isinstance(target, str) else asyncio.open_connection(*target))


async def _open_unix(target: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By a socket of our own: uvloop takes the zero byte before an abstract name for the end of an empty one."""
    connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connecting.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(connecting, target)
        return await asyncio.open_unix_connection(sock=connecting)
    except BaseException:
        connecting.close()
        raise


class Listener:
    """Accepts peers on an ``Endpoint``, shakes hands, and runs ``handle(connection)`` for each of them."""

    def __init__(
        self, endpoint: Endpoint, subject: str, handle: Callable[[Connection], Awaitable[None]], max_body: int
    ) -> None:
        self._endpoint = endpoint
        self._subject = subject
        self._handle = handle
        self._max_body = max_body
        self._servers: list[asyncio.Server] = []
        self._peers: set[asyncio.Task[None]] = set()

    @classmethod
    async def start(
        cls,
        endpoint: Endpoint,
        subject: str,
        handle: Callable[[Connection], Awaitable[None]],
        max_body: int = DEFAULT_MAX_BODY,
    ) -> Listener:
        """Start to accept. When ``handle`` returns or raises, its connection is closed."""
        listener = cls(endpoint, subject, handle, max_body)
        for listening in endpoint.sockets:
            start = asyncio.start_unix_server if listening.family == socket.AF_UNIX else asyncio.start_server
            listener._servers.append(await start(listener._accept, sock=listening))
        return listener

    @property
    def address(self) -> Address:
        return self._endpoint.address

    async def close(self) -> None:
        """Accept no more and close every connection."""
        for server in self._servers:
            server.close()
        self._endpoint.close()
        for peer in self._peers:
            peer.cancel()
        await asyncio.gather(*self._peers, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - narrows the type: a coroutine always runs in a task
        self._peers.add(task)
        channel = Channel.listener(self.address.key, self._subject, self._max_body)
        connection = Connection(reader, writer, channel)
        try:
            async with asyncio.timeout(DEFAULT_HANDSHAKE_TIMEOUT):
                await connection.shake_hands()
            await self._handle(connection)
        except (ConnectionLostError, asyncio.CancelledError) as error:  # ``close`` cancels, and asyncio would log it
            logger.debug("connection ended: %s", error)
        except (WireError, TimeoutError) as error:
            logger.warning(
                "closing the connection of %s: %s", connection.peer_name, str(error) or "no handshake in time"
            )
        finally:
            self._peers.discard(task)
            await connection.close()
