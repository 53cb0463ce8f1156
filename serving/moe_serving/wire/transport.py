"""Requests of tensors and the events of their completion: what the engine's thread knows of the network.

The unit is a message of torch tensors, not bytes, so that other ways of moving tensors (CUDA IPC, NIXL) fit behind the
same three verbs: connect, submit, wait. ``SocketFabric`` is the one for unix and TCP sockets. A transport belongs to
one thread at a time.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from moe_contract.applications import Network
from moe_serving.wire.blocking import Connection
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import WireError
from moe_serving.wire.frames import Buffer, Frame, encode
from moe_serving.wire.tensors import decode_message, encode_message
from moe_serving.wire.torch_tensors import to_torch, to_wire

YIELD_SECONDS = 0.001
"""How long ``wait`` offers its core to others before it sleeps. On shared cores a layer's answer comes within this
time, and waking up from a sleep costs a good part of it."""


@dataclass(frozen=True, slots=True)
class Message:
    """A few fixed bytes and tensors; ``kind`` and ``flags`` are those of the frame, see ``kinds``."""

    kind: int
    meta: bytes
    tensors: tuple[Tensor, ...]
    flags: int = 0


class Completion(Protocol):
    """The event of a reply."""

    @property
    def done(self) -> bool:
        """Whether ``result`` has something to say."""
        ...

    def result(self) -> Message:
        """The reply; only once done.

        Raises:
            WireError: the transport broke before the reply was complete; it must be closed.
        """
        ...


C = TypeVar("C", bound=Completion)
C_co = TypeVar("C_co", bound=Completion, covariant=True)


class Transport(Protocol[C_co]):
    """A connection to one peer that answers each message with one."""

    @property
    def features(self) -> frozenset[str]:
        """Names of what the peer knows, beside what peers of every release do."""
        ...

    def submit(self, message: Message) -> C_co:
        """Send without waiting. The tensors must not change before the completion is done.

        Raises:
            WireError: the transport is broken; it must be closed.
        """
        ...

    def close(self) -> None: ...


class Fabric(Protocol[C]):
    """A kind of transport: how to connect, and how to wait for several peers at once."""

    def connect(self, address: Address, timeout: float) -> Transport[C]:
        """May be called by any thread.

        Raises:
            WireError: unreachable, refused, or not in time.
        """
        ...

    def wait(self, pending: Sequence[C], timeout: float) -> None:
        """Return once at least one of ``pending`` is done, or after ``timeout`` seconds."""
        ...


class SocketCompletion:
    """The reply of one message over a socket."""

    def __init__(self, transport: SocketTransport, tag: int) -> None:
        self.transport = transport
        self.tag = tag
        self._reply: Message | None = None
        self._error: WireError | None = None

    @property
    def done(self) -> bool:
        return self._reply is not None or self._error is not None

    def result(self) -> Message:
        if self._error is not None:
            raise self._error
        if self._reply is None:
            raise RuntimeError("the reply has not arrived; wait for it first")
        return self._reply

    def progress(self) -> None:
        """Move what can be moved without waiting."""
        try:
            self._reply = self.transport.receive(self.tag)
        except WireError as error:
            self._error = error


class SocketTransport:
    """Messages as frames over one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._last_tag = 0

    @property
    def features(self) -> frozenset[str]:
        return self.connection.channel.peer_features

    def submit(self, message: Message) -> SocketCompletion:
        self._last_tag = (self._last_tag + 1) & 0xFFFFFFFF
        self.connection.send(encode_frame(message, self._last_tag))
        return SocketCompletion(self, self._last_tag)

    def receive(self, tag: int) -> Message | None:
        """The reply to ``tag`` if it is complete; replies to earlier messages, given up since, are dropped."""
        self.connection.flush()
        while (frame := self.connection.receive()) is not None:
            if frame.tag == tag:
                return decode_frame(frame)
        return None

    def close(self) -> None:
        self.connection.close()


class SocketFabric:
    """Unix and TCP sockets.

    Args:
        subject: what the connections are about, such as the model's digest; see ``handshake``.
        name: who we are, for the peers' logs.
        node: the node we run on; peers there are reached by their unix socket unless ``network`` says otherwise.
        max_body: bytes of the largest reply accepted.
    """

    def __init__(self, subject: str, name: str, node: str, network: Network, max_body: int) -> None:
        self._subject = subject
        self._name = name
        self._node = node
        self._network = network
        self._max_body = max_body

    def connect(self, address: Address, timeout: float) -> SocketTransport:
        return SocketTransport(
            Connection.connect(
                address,
                self._subject,
                self._name,
                network=self._network,
                node=self._node,
                max_body=self._max_body,
                timeout=timeout,
            )
        )

    def wait(self, pending: Sequence[SocketCompletion], timeout: float) -> None:
        now = time.monotonic()
        deadline, awake_until = now + timeout, now + YIELD_SECONDS
        poller = select.poll()
        by_descriptor: dict[int, list[SocketCompletion]] = {}
        for completion in pending:
            connection = completion.transport.connection
            poller.register(connection, select.POLLIN | (select.POLLOUT if connection.has_unsent else 0))
            by_descriptor.setdefault(connection.fileno(), []).append(completion)
        while not any(completion.done for completion in pending):
            for descriptor, _ in _poll(poller, deadline, awake_until):
                for completion in by_descriptor[descriptor]:
                    completion.progress()
                    if not completion.done and not completion.transport.connection.has_unsent:
                        poller.modify(descriptor, select.POLLIN)
            if time.monotonic() >= deadline:
                return


def encode_frame(message: Message, tag: int) -> list[Buffer]:
    """A message as the buffers of one frame; the tensors are not copied where they are contiguous on the CPU."""
    parts = encode_message(message.meta, [to_wire(tensor) for tensor in message.tensors])
    return encode(message.kind, *parts, flags=message.flags, tag=tag)


def decode_frame(frame: Frame) -> Message:
    """The message of a frame; its tensors are views of the frame's body.

    Raises:
        ProtocolError: the body is not a message.
    """
    meta, tensors = decode_message(frame.body)
    return Message(frame.kind, bytes(meta), tuple(to_torch(tensor) for tensor in tensors), frame.flags)


def _poll(poller: select.poll, deadline: float, awake_until: float) -> list[tuple[int, int]]:
    """Descriptors that are ready: yields the core until ``awake_until``, then sleeps until ``deadline``."""
    while True:
        ready = poller.poll(0)
        now = time.monotonic()
        if ready or now >= deadline:
            return ready
        if now >= awake_until:
            return poller.poll(max(1.0, (deadline - now) * 1000))
        os.sched_yield()
