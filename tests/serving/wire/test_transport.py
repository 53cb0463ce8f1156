"""Messages of tensors and the events of their completion, over real sockets, against a peer that is sometimes odd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import torch

from moe_contract.applications import Network
from moe_serving.wire import aio
from moe_serving.wire.endpoint import Endpoint
from moe_serving.wire.errors import ConnectionLostError, ProtocolError, WireError
from moe_serving.wire.transport import Message, SocketFabric, SocketTransport

ECHO, MUTE, LATE, GARBAGE, HANG_UP = 0x70, 0x71, 0x72, 0x73, 0x74
WAIT_S = 60.0


async def peer(connection: aio.Connection) -> None:
    """Echoes; keeps LATE messages back until the next one comes."""
    kept: list[tuple[bytes, int]] = []
    while True:
        frame = await connection.receive()
        if frame.kind == HANG_UP:
            return
        if frame.kind == LATE:
            kept.append((bytes(frame.body), frame.tag))
        if frame.kind == GARBAGE:
            await connection.send(ECHO, b"no tensors here", tag=frame.tag)
        if frame.kind == ECHO:
            for body, tag in kept:
                await connection.send(ECHO, body, tag=tag)
            await connection.send(ECHO, frame.body, tag=frame.tag)


@pytest.fixture(params=["unix", "tcp"])
async def address(request: pytest.FixtureRequest) -> AsyncIterator[aio.Address]:
    network: Network = request.param
    listener = await aio.Listener.start(Endpoint.open("node", "127.0.0.1", network), "tensors", peer, max_body=1 << 28)
    yield listener.address
    await listener.close()


def fabric() -> SocketFabric:
    return SocketFabric("tensors", "test", "node", "auto", max_body=1 << 28)


async def with_transport(address: aio.Address, use: Callable[[SocketFabric, SocketTransport], None]) -> None:
    """Transports belong to a thread that may block."""

    def run() -> None:
        own = fabric()
        transport = own.connect(address, WAIT_S)
        try:
            use(own, transport)
        finally:
            transport.close()

    await asyncio.to_thread(run)


def numbers(count: int) -> Message:
    return Message(ECHO, b"meta", (torch.arange(count, dtype=torch.float32), torch.tensor([count])))


async def test_messages_of_all_sizes_come_back(address: aio.Address) -> None:
    def use(own: SocketFabric, transport: SocketTransport) -> None:
        for count in (0, 1, 1000, 4_000_000):
            completion = transport.submit(numbers(count))
            while not completion.done:
                own.wait([completion], WAIT_S)
            reply = completion.result()
            assert reply.meta == b"meta"
            assert torch.equal(reply.tensors[0], numbers(count).tensors[0])

    await with_transport(address, use)


async def test_several_peers_are_waited_for_at_once(address: aio.Address) -> None:
    def use(own: SocketFabric, transport: SocketTransport) -> None:
        other = own.connect(address, WAIT_S)
        silent = transport.submit(Message(MUTE, b"", ()))
        answered = other.submit(numbers(5))
        own.wait([silent, answered], WAIT_S)
        assert answered.done
        assert not silent.done
        other.close()

    await with_transport(address, use)


async def test_waiting_ends_in_time(address: aio.Address) -> None:
    def use(own: SocketFabric, transport: SocketTransport) -> None:
        completion = transport.submit(Message(MUTE, b"", ()))
        own.wait([completion], 0.02)
        assert not completion.done
        with pytest.raises(RuntimeError, match="has not arrived"):
            completion.result()

    await with_transport(address, use)


async def test_the_reply_to_a_message_given_up_is_not_taken_for_another(address: aio.Address) -> None:
    def use(own: SocketFabric, transport: SocketTransport) -> None:
        transport.submit(Message(LATE, b"late", ()))
        completion = transport.submit(numbers(3))
        own.wait([completion], WAIT_S)
        assert completion.result().meta == b"meta"

    await with_transport(address, use)


@pytest.mark.parametrize(("kind", "error"), [(HANG_UP, ConnectionLostError), (GARBAGE, ProtocolError)])
async def test_a_broken_peer_completes_with_an_error(address: aio.Address, kind: int, error: type[WireError]) -> None:
    def use(own: SocketFabric, transport: SocketTransport) -> None:
        completion = transport.submit(Message(kind, b"", ()))
        own.wait([completion], WAIT_S)
        with pytest.raises(error):
            completion.result()

    await with_transport(address, use)
