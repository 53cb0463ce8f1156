"""Calls between two processes: what they bring, how they end, and whose words are believed."""

from __future__ import annotations

import asyncio
import logging
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import numpy as np
import pytest
import uvloop

from moe_serving.wire import aio, calls
from moe_serving.wire.aio import refuses
from moe_serving.wire.calls import CallConnection, CallFailedError, CallServer
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import ConnectionLostError
from moe_serving.wire.kinds import CallKind

WAIT_S = 20.0


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """As a shard describes itself."""

    index: int
    held: np.ndarray


class Called:
    """What is called."""

    def __init__(self) -> None:
        self.waiting = 0
        self.cancelled = 0
        self.go_on = asyncio.Event()

    async def echo(self, *values: object) -> object:
        return values

    async def wait(self) -> str:
        self.waiting += 1
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "waited"

    async def fail(self) -> None:
        raise LookupError("no such layer")


@pytest.fixture
def called() -> Called:
    return Called()


@pytest.fixture
async def address(called: Called) -> AsyncIterator[Address]:
    endpoint = Endpoint.open("node", "127.0.0.1", "unix")
    server = await start(endpoint, called)
    yield endpoint.address
    await server.close()


async def start(endpoint: Endpoint, called: Called) -> CallServer:
    return await CallServer.start(endpoint, {"echo": called.echo, "wait": called.wait, "fail": called.fail})


@pytest.fixture
async def connection(address: Address) -> AsyncIterator[CallConnection]:
    connection = await CallConnection.open(address, "test", "node", "auto")
    yield connection
    connection.close()
    await until(lambda: connection.lost, "the end of its reading")


async def until(condition: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"waited {WAIT_S:g} s for {what}"
        await asyncio.sleep(0.005)


async def soon(awaitable: Awaitable[object]) -> object:
    async with asyncio.timeout(WAIT_S):
        return await awaitable


async def test_values_of_any_type_come_back(connection: CallConnection) -> None:
    held = np.arange(6).reshape(2, 3) % 2 == 0
    number, (text, shard) = await connection.call("echo", 3, ("x", Held(7, held)))
    assert (number, text, shard.index) == (3, "x", 7)
    assert np.array_equal(shard.held, held)
    assert await connection.call("echo", b"y" * 3_000_000) == (b"y" * 3_000_000,)


async def test_calls_do_not_wait_for_each_other(connection: CallConnection, called: Called) -> None:
    slow = asyncio.create_task(connection.call("wait"))
    await until(lambda: called.waiting == 1, "the call")
    assert await asyncio.gather(*(connection.call("echo", n) for n in range(20))) == [(n,) for n in range(20)]
    assert not slow.done()
    called.go_on.set()
    assert await soon(slow) == "waited"


async def test_a_failure_is_told_and_ends_nothing_else(
    connection: CallConnection, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(CallFailedError, match="LookupError: no such layer"):
        await connection.call("fail")
    with pytest.raises(CallFailedError, match="KeyError: 'nothing'"):
        await connection.call("nothing")
    assert "a call of fail by test failed" in caplog.text
    assert await connection.call("echo") == ()


async def test_a_call_that_is_given_up_ends_at_the_other_end_too(connection: CallConnection, called: Called) -> None:
    for number in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await connection.call("wait")
        await until(lambda number=number: called.cancelled == number + 1, "its end")  # type: ignore[misc]
    called.go_on.set()
    assert await connection.call("wait") == "waited"


async def test_all_calls_end_with_their_connection(address: Address, called: Called) -> None:
    connection = await CallConnection.open(address, "test", "node", "auto")
    held = [asyncio.create_task(connection.call("wait")) for _ in range(3)]
    await until(lambda: called.waiting == 3, "the calls")
    connection.close()
    for each in held:
        with pytest.raises(ConnectionLostError):
            await soon(each)
    await until(lambda: called.cancelled == 3, "their ends at the other end")
    assert connection.lost
    with pytest.raises(ConnectionLostError):
        await connection.call("echo")


@pytest.mark.parametrize("network", ["unix", "tcp"])
async def test_a_process_that_ends_is_known_from_one_that_does_not_answer(called: Called, network: str) -> None:
    endpoint = Endpoint.open("node", "127.0.0.1", network)  # type: ignore[arg-type]  # one of them
    assert not await refuses(endpoint.address, node="node"), "it listens, though nobody accepts"
    server = await start(endpoint, called)
    connection = await CallConnection.open(endpoint.address, "test", "node", "auto")
    held = asyncio.create_task(connection.call("wait"))
    await until(lambda: called.waiting == 1, "the call")
    await server.close()
    with pytest.raises(ConnectionLostError):
        await soon(held)
    assert await refuses(endpoint.address, node="node")


class Bomb:
    """Unpickling it would run code."""

    exploded = False

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _explode, ()


def _explode() -> None:
    Bomb.exploded = True


@pytest.mark.parametrize("mac", [b"", b"m" * 32, b"m" * 31], ids=len)
async def test_nothing_is_unpickled_that_the_key_was_not_laid_to(
    address: Address, connection: CallConnection, mac: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    intruder = await aio.connect(address, "calls", "intruder", node="node")
    with caplog.at_level(logging.WARNING):
        await intruder.send(CallKind.CALL, mac, pickle.dumps(Bomb()), tag=1)
        with pytest.raises(ConnectionLostError):
            await soon(intruder.receive())
    await intruder.close()
    assert not Bomb.exploded
    assert "closing the connection of intruder" in caplog.text
    assert await connection.call("echo") == (), "others go on"


async def test_what_was_sealed_for_one_call_is_none_for_another(address: Address, connection: CallConnection) -> None:
    sealed = b"".join(bytes(part) for part in calls._seal(address.key, CallKind.CALL, 5, ("echo", (1,))))
    replaying = await aio.connect(address, "calls", "replaying", node="node")
    await replaying.send(CallKind.CALL, sealed, tag=5)
    assert (await replaying.receive()).kind == CallKind.ANSWER
    await replaying.send(CallKind.CALL, sealed, tag=6)
    with pytest.raises(ConnectionLostError):
        await soon(replaying.receive())
    await replaying.close()


async def test_calls_that_never_end_do_not_pile_up(address: Address, called: Called) -> None:
    connection = await CallConnection.open(address, "test", "node", "auto")
    held = [asyncio.create_task(connection.call("wait")) for _ in range(calls.MOST_CALLS + 1)]
    for each in held:
        with pytest.raises(ConnectionLostError):
            await soon(each)
    await until(lambda: called.cancelled == called.waiting, "all to be cancelled")
    assert connection.lost


def test_it_works_on_the_loop_that_serve_uses() -> None:
    async def talk() -> None:
        endpoint = Endpoint.open("node", "127.0.0.1", "auto")
        server = await start(endpoint, Called())
        connection = await CallConnection.open(endpoint.address, "test", "node", "auto")
        assert await connection.call("echo", 1) == (1,)
        await server.close()
        with pytest.raises(ConnectionLostError):
            await connection.call("echo", 1)
        assert await refuses(endpoint.address, node="node")

    uvloop.run(talk())
