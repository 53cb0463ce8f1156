"""Blocking driver: connect with the handshake, then non-blocking sends and receives for a thread that polls.

Used by the engine's thread through ``transport``; ``send_frame`` and ``receive_frame`` serve simple callers and tests.
"""

from __future__ import annotations

import select
import socket
import time
from collections import deque

from moe_contract.applications import Network
from moe_serving.wire.channel import Channel
from moe_serving.wire.endpoint import Address, configure
from moe_serving.wire.errors import ConnectionLostError, WireError
from moe_serving.wire.frames import Buffer, Frame, encode

_MAX_BUFFERS = 64
"""Buffers handed to one sendmsg; the system's limit (IOV_MAX) is 1024."""


class Connection:
    """A socket and its channel. Not thread-safe: one thread at a time."""

    def __init__(self, connected: socket.socket, channel: Channel) -> None:
        connected.setblocking(False)
        configure(connected)
        self.channel = channel
        self._socket = connected

    @classmethod
    def connect(
        cls,
        address: Address,
        subject: str,
        name: str,
        *,
        network: Network = "auto",
        node: str = "",
        max_body: int,
        timeout: float,
    ) -> Connection:
        """Connect and shake hands.

        Args:
            subject: what the connection is about, such as the model's digest; the listener must have the same.
            name: who we are, for the listener's log.
            node: the node we run on.
            max_body: bytes of the largest body we accept.
            timeout: seconds for all of it.

        Raises:
            HandshakeError: refused, or the listener does not hold the key.
            ConnectionLostError: nobody listens, or no answer in time.
        """
        deadline = time.monotonic() + timeout
        channel = Channel.initiator(address.key, subject, name, max_body)
        connected = _open(address.target(network, node), timeout)
        try:
            connection = cls(connected, channel)
        except OSError as error:  # the peer is gone again
            connected.close()
            raise ConnectionLostError(f"cannot set up a connection: {error}") from error
        try:
            while not connection.channel.established or connection.has_unsent:
                connection.flush()
                connection.wait(deadline)
                connection.receive()
        except WireError:
            connection.close()
            raise
        return connection

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def has_unsent(self) -> bool:
        """Whether bytes wait for the socket to become writable."""
        return bool(self.channel.outbox)

    def send(self, buffers: list[Buffer]) -> None:
        """Send what the socket takes now; ``flush`` sends the rest. Buffers must not change until all is sent."""
        self.channel.outbox.extend(buffers)
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as the socket takes it.

        Raises:
            ConnectionLostError: the peer is gone.
        """
        try:
            send_some(self._socket, self.channel.outbox)
        except OSError as error:
            raise ConnectionLostError(f"{self.channel.peer_name}: {error}") from error

    def receive(self) -> Frame | None:
        """The next frame if it is complete without waiting, else None.

        Raises:
            ConnectionLostError: end of stream or reset.
            ProtocolError, HandshakeError: see ``Channel.filled``.
        """
        while True:
            try:
                count = self._socket.recv_into(self.channel.space())
            except BlockingIOError:
                return None
            except OSError as error:
                raise ConnectionLostError(f"{self.channel.peer_name}: {error}") from error
            if count == 0:
                raise ConnectionLostError(f"{self.channel.peer_name} closed the connection")
            frame = self.channel.filled(count)
            if frame is not None or self.has_unsent:
                return frame

    def wait(self, deadline: float) -> None:
        """Wait until the socket is readable, or writable if something is unsent.

        Raises:
            ConnectionLostError: ``deadline`` (monotonic seconds) has passed.
        """
        if not self.poll(max(0.0, deadline - time.monotonic())):
            raise ConnectionLostError(f"{self.channel.peer_name} did not answer in time")

    def poll(self, timeout: float) -> bool:
        """Whether the socket is readable, or writable if something is unsent, within ``timeout`` seconds."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN | (select.POLLOUT if self.has_unsent else 0))
        return bool(poller.poll(timeout * 1000))

    def send_frame(self, kind: int, *parts: Buffer, flags: int = 0, tag: int = 0, timeout: float) -> None:
        """Send a whole frame, waiting where the socket is full."""
        deadline = time.monotonic() + timeout
        self.send(encode(kind, *parts, flags=flags, tag=tag))
        while self.has_unsent:
            self.wait(deadline)
            self.flush()

    def receive_frame(self, timeout: float) -> Frame:
        """Wait for the next frame."""
        deadline = time.monotonic() + timeout
        while True:
            frame = self.receive()
            if frame is not None:
                return frame
            self.wait(deadline)

    def close(self) -> None:
        self._socket.close()


def send_some(connected: socket.socket, outbox: deque[Buffer]) -> None:
    """Send from the front of ``outbox`` until it is empty or the socket is full; what was sent is removed."""
    while outbox:
        batch = [outbox[i] for i in range(min(len(outbox), _MAX_BUFFERS))]
        try:
            sent = connected.sendmsg(batch)
        except BlockingIOError:
            return
        for buffer in batch:
            size = memoryview(buffer).nbytes
            if sent < size:
                outbox[0] = memoryview(buffer).cast("B")[sent:]
                break
            outbox.popleft()
            sent -= size


def _open(target: str | tuple[str, int], timeout: float) -> socket.socket:
    try:
        if isinstance(target, tuple):
            return socket.create_connection(target, timeout)
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(timeout)
            connecting.connect(target)
        except OSError:
            connecting.close()
            raise
        return connecting
    except OSError as error:
        raise ConnectionLostError(f"cannot connect to {target!r}: {error}") from error
