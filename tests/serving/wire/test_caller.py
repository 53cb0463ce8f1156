"""Calls to a process that others find: one that ends, comes back elsewhere, or stands still."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from moe_serving.wire import caller
from moe_serving.wire.caller import Caller
from moe_serving.wire.calls import CallServer
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import ConnectionLostError, PeerGoneError

WAIT_S = 20.0


class Place:
    """Where the one process is; and what answers there."""

    def __init__(self) -> None:
        self.asked = 0
        self.holding = 0
        self.endpoint: Endpoint | None = None
        self.server: CallServer | None = None

    async def start(self) -> None:
        self.endpoint = Endpoint.open("node", "127.0.0.1", "unix")
        self.server = await CallServer.start(self.endpoint, {"name": self._name, "hold": self._hold})

    async def end(self) -> None:
        assert self.server is not None
        await self.server.close()
        self.endpoint = None

    async def find(self) -> Address:
        self.asked += 1
        if self.endpoint is None:
            raise LookupError("no replica")
        return self.endpoint.address

    async def _name(self) -> str | None:
        return self.endpoint.address.unix_name if self.endpoint is not None else None

    async def _hold(self) -> None:
        self.holding += 1
        try:
            await asyncio.sleep(3600)
        finally:
            self.holding -= 1


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    place = Place()
    await place.start()
    yield place
    if place.endpoint is not None:
        await place.end()


@pytest.fixture
async def calls(place: Place) -> AsyncIterator[Caller]:
    calls = Caller(place.find, "test", "node", "auto")
    yield calls
    calls.close()
    await asyncio.sleep(0)


async def test_it_is_looked_for_once(place: Place, calls: Caller) -> None:
    assert place.endpoint is not None
    names = await asyncio.gather(*(calls.call("name") for _ in range(5)))
    assert names == [place.endpoint.address.unix_name] * 5
    assert place.asked == 1


async def test_one_that_ends_is_gone_at_once_and_found_again(place: Place, calls: Caller) -> None:
    held = asyncio.create_task(calls.call("hold", hold=WAIT_S))
    await until_held(place, 1)
    await place.end()
    with pytest.raises(PeerGoneError):
        async with asyncio.timeout(WAIT_S):
            await held
    with pytest.raises(LookupError):
        await calls.call("name")
    await place.start()
    assert place.endpoint is not None
    assert await calls.call("name") == place.endpoint.address.unix_name


async def test_a_lost_connection_alone_is_noticed_by_nobody(place: Place, calls: Caller) -> None:
    assert place.endpoint is not None
    await calls.call("name")
    calls.close()
    assert await calls.call("name") == place.endpoint.address.unix_name
    assert place.asked == 2


async def test_one_that_stands_still_is_looked_for_anew(
    place: Place, calls: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have been replaced meanwhile. What it was asked does not pile up there."""
    monkeypatch.setattr(caller, "LATE_S", 0.02)
    for turn in range(1, 4):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await calls.call("hold")
        await until_held(place, 0)
        assert place.asked == turn


async def test_a_held_call_may_be_given_up_for_news(place: Place, calls: Caller) -> None:
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await calls.call("hold", hold=WAIT_S)
        await until_held(place, 0)
    await calls.call("name")
    assert place.asked == 1


async def test_one_that_cannot_be_reached_is_not_taken_for_gone(place: Place, calls: Caller) -> None:
    """Nothing was ever heard of it: it may be starting."""
    assert place.server is not None
    await place.server.close()
    with pytest.raises(ConnectionLostError) as error:
        await calls.call("name")
    assert not isinstance(error.value, PeerGoneError)


async def until_held(place: Place, count: int) -> None:
    end = asyncio.get_running_loop().time() + WAIT_S
    while place.holding != count:
        assert asyncio.get_running_loop().time() < end, f"waited {WAIT_S:g} s for {count} held calls"
        await asyncio.sleep(0.005)
