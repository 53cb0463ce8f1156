"""What the tests of the operator share."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
from fake_ray import FakeRay, serving

from moe_operator.runtimes.http.addresses import AddressPolicy
from moe_operator.runtimes.http.client import HttpClient


@pytest.fixture
async def fake_ray() -> AsyncIterator[FakeRay]:
    fake = FakeRay()
    async with serving(fake.handle) as fake.url:
        yield fake


@pytest.fixture
async def http() -> AsyncIterator[HttpClient]:
    async with HttpClient(AddressPolicy()) as client:
        yield client


@pytest.fixture
async def black_hole() -> AsyncIterator[str]:
    """An address that takes connections and never answers."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.fixture
def closed_address() -> Iterator[str]:
    """An address where nothing listens, nor begins to: the port is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"
