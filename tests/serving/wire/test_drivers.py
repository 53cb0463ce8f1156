"""Both drivers over real unix and TCP sockets: an asyncio listener and peers of either kind."""

from __future__ import annotations

import asyncio
import logging
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop

from moe_contract.applications import Network
from moe_serving.wire import aio, blocking
from moe_serving.wire.channel import Channel
from moe_serving.wire.endpoint import Endpoint, configure
from moe_serving.wire.errors import ConnectionLostError, HandshakeError, RefusalReason, WireError
from moe_serving.wire.frames import encode

SUBJECT = "echo"
ECHO = 0x7F


async def echo(connection: aio.Connection) -> None:
    while True:
        frame = await connection.receive()
        await connection.send(frame.kind, frame.body, flags=frame.flags, tag=frame.tag)


@pytest.fixture(params=["unix", "tcp"])
def network(request: pytest.FixtureRequest) -> Network:
    return request.param


@pytest.fixture
async def listener(network: Network) -> AsyncIterator[aio.Listener]:
    listener = await aio.Listener.start(Endpoint.open("node-a", "127.0.0.1", network), SUBJECT, echo, max_body=1 << 20)
    yield listener
    await listener.close()


async def test_frames_of_all_sizes_come_back(listener: aio.Listener) -> None:
    connection = await aio.connect(listener.address, SUBJECT, "test", node="node-a")
    for size in (0, 1, 17, 300_000, 1 << 20):
        await connection.send(ECHO, b"x" * size, tag=size)
        frame = await connection.receive()
        assert (frame.tag, frame.body) == (size, b"x" * size)
    await connection.close()


def test_it_works_on_the_loop_that_serve_uses(network: Network) -> None:
    async def talk() -> None:
        listener = await aio.Listener.start(Endpoint.open("node-a", "127.0.0.1", network), SUBJECT, echo)
        connection = await aio.connect(listener.address, SUBJECT, "test", node="node-a")
        await connection.send(ECHO, b"hello")
        assert (await connection.receive()).body == b"hello"
        await connection.close()
        await listener.close()

    uvloop.run(talk())


async def test_many_peers_do_not_mix(listener: aio.Listener) -> None:
    async def talk(number: int) -> None:
        connection = await aio.connect(listener.address, SUBJECT, f"peer-{number}", node="node-a")
        for turn in range(20):
            await connection.send(ECHO, f"{number}:{turn}".encode())
            assert (await connection.receive()).body == f"{number}:{turn}".encode()
        await connection.close()

    await asyncio.gather(*(talk(number) for number in range(8)))


async def test_the_blocking_driver_speaks_the_same_protocol(listener: aio.Listener) -> None:
    def talk() -> None:
        connection = blocking.Connection.connect(
            listener.address, SUBJECT, "thread", node="node-a", max_body=1 << 20, timeout=5
        )
        try:
            for size in (0, 5, 1 << 20):
                connection.send_frame(ECHO, bytes(size), timeout=5)
                assert connection.receive_frame(timeout=5).body == bytes(size)
            with pytest.raises(ConnectionLostError, match="did not answer in time"):
                connection.receive_frame(timeout=0.01)
        finally:
            connection.close()

    await asyncio.to_thread(talk)


async def test_a_wrong_key_is_refused_on_both_sides(listener: aio.Listener) -> None:
    stale = replace(listener.address, key=bytes(32))
    with pytest.raises(HandshakeError) as caught:
        await aio.connect(stale, SUBJECT, "test", node="node-a")
    assert caught.value.reason is RefusalReason.WRONG_KEY


async def test_another_subject_is_refused(listener: aio.Listener) -> None:
    with pytest.raises(HandshakeError, match=r"'echo'.*'other'"):
        await aio.connect(listener.address, "other", "test", node="node-a")
    with pytest.raises(HandshakeError, match=r"'echo'.*'other'"):
        await asyncio.to_thread(
            blocking.Connection.connect, listener.address, "other", "x", node="node-a", max_body=9, timeout=5
        )


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", bytes(64), b"".join(encode(ECHO, b"too early")), b"MOEW"],
    ids=["http", "zeros", "no handshake", "half a header"],
)
async def test_a_malformed_peer_harms_nobody(
    listener: aio.Listener, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "asyncio")
    good = await aio.connect(listener.address, SUBJECT, "good", node="node-a")
    target = listener.address.target("auto", "node-a")
    bad = socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET)
    bad.connect(target)
    bad.sendall(garbage)
    bad.shutdown(socket.SHUT_WR)
    bad.settimeout(5)
    answer = await asyncio.to_thread(bad.recv, 4096)
    assert answer == b"" or answer.startswith(b"MOEW")
    bad.close()
    await good.send(ECHO, b"still here")
    assert (await good.receive()).body == b"still here"
    await good.close()
    assert not caplog.records


async def test_an_oversized_frame_closes_only_its_connection(listener: aio.Listener) -> None:
    good = await aio.connect(listener.address, SUBJECT, "good", node="node-a")
    bad = await aio.connect(listener.address, SUBJECT, "bad", node="node-a")
    with pytest.raises(ConnectionLostError):
        await bad.send(ECHO, bytes((1 << 20) + 1))
        await bad.receive()
    await bad.close()
    await good.send(ECHO, b"still here")
    assert (await good.receive()).body == b"still here"
    await good.close()


async def test_a_closed_listener_refuses(network: Network) -> None:
    listener = await aio.Listener.start(Endpoint.open("node-a", "127.0.0.1", network), SUBJECT, echo)
    connection = await aio.connect(listener.address, SUBJECT, "test", node="node-a")
    await listener.close()
    with pytest.raises(ConnectionLostError):
        await connection.receive()
    await connection.close()
    with pytest.raises(ConnectionLostError, match="cannot connect"):
        await aio.connect(listener.address, SUBJECT, "test", node="node-a")


async def test_a_silent_listener_is_given_up() -> None:
    endpoint = Endpoint.open("node-a", "127.0.0.1", "tcp")
    try:
        with pytest.raises(ConnectionLostError, match="no answer in time"):
            await aio.connect(endpoint.address, SUBJECT, "test", timeout=0.05)
    finally:
        endpoint.close()


def test_a_listener_makes_no_file_that_a_kill_could_leave_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    endpoint = Endpoint.open("a", "127.0.0.1", "unix")
    assert not list(tmp_path.iterdir())
    assert endpoint.sockets[0].getsockname() == b"\0" + str(endpoint.address.unix_name).encode()
    endpoint.close()


def test_the_network_setting_decides_how_a_peer_is_reached() -> None:
    endpoint = Endpoint.open("node-a", "127.0.0.1", "auto")
    address = endpoint.address
    assert address.target("auto", "node-a") == f"\0{address.unix_name}"
    assert address.target("auto", "node-b") == ("127.0.0.1", address.port)
    assert address.target("tcp", "node-a") == ("127.0.0.1", address.port)
    with pytest.raises(WireError, match="cannot reach"):
        replace(address, unix_name=None).target("unix", "node-a")
    assert address.key.hex() not in repr(address)
    assert repr(address.key) not in repr(address)
    endpoint.close()


async def test_closing_does_not_wait_for_a_frozen_peer(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has been sent more than its socket holds, and reads nothing."""
    monkeypatch.setattr(aio, "_CLOSE_SECONDS", 0.2)

    thaw = asyncio.Event()

    async def freeze(connection: aio.Connection) -> None:
        connection._reader._transport.pause_reading()
        await thaw.wait()

    listener = await aio.Listener.start(Endpoint.open("node-a", "127.0.0.1", network), SUBJECT, freeze)
    connection = await aio.connect(listener.address, SUBJECT, "test", node="node-a")
    sending = asyncio.create_task(connection.send(ECHO, bytes(16 << 20)))
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        await connection.close()
        await sending
    thaw.set()
    await listener.close()


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_a_peer_whose_node_vanishes_without_a_word_is_noticed(loop: Callable[..., object]) -> None:
    """Both ends of a connection over TCP, of either driver, ask whether the other is still there."""

    def asks(connection: socket.socket) -> bool:
        ends = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30
        return ends and connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1

    async def talk() -> None:
        accepted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        async def look(connection: aio.Connection) -> None:
            accepted.set_result(asks(connection._writer.get_extra_info("socket")))
            await connection.receive()

        listener = await aio.Listener.start(Endpoint.open("node-a", "127.0.0.1", "tcp"), SUBJECT, look)
        connection = await aio.connect(listener.address, SUBJECT, "test", node="node-a")
        async with asyncio.timeout(30):
            assert await accepted
        assert asks(connection._writer.get_extra_info("socket"))
        await connection.close()
        await listener.close()

    loop(talk())


def test_a_vanished_peer_is_noticed_as_soon_while_something_is_under_way() -> None:
    """Questions are asked of idle connections only."""
    endpoint = Endpoint.open("node-a", "127.0.0.1", "tcp")
    with socket.create_connection((endpoint.address.host, endpoint.address.port)) as connected:
        configure(connected)
        asked = [
            connected.getsockopt(socket.IPPROTO_TCP, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        ]
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 1000 * (
            asked[0] + asked[1] * asked[2]
        )
    endpoint.close()


def test_the_blocking_driver_asks_too() -> None:
    endpoint = Endpoint.open("node-a", "127.0.0.1", "tcp")
    with socket.create_connection((endpoint.address.host, endpoint.address.port)) as connected:
        blocking.Connection(connected, Channel.initiator(endpoint.address.key, SUBJECT, "test", 1 << 10))
        assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30
    endpoint.close()
