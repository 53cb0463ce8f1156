"""What each answer of a directory that is asked for its statistics means."""

import pytest
from aiohttp import web

from moe_operator.runtimes import statistics
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    RayAnswerRefusedError,
)


async def test_statistics_come_as_they_are(http, fake_ray) -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.path, request.headers["Authorization"]))
        return web.Response(body=b"packed" * 100_000)

    fake_ray.override = answer
    found = await Directories(http).statistics(fake_ray.url + "/", "/tiny", "secret")
    assert found == bytearray(b"packed" * 100_000)
    assert asked == [("/tiny/internal/statistics", "Bearer secret")]


async def test_before_there_are_any_there_is_nothing(http, fake_ray) -> None:
    assert await Directories(http).statistics(fake_ray.url, "/tiny", "secret") == bytearray()


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, KeyRefusedError, "does not take the operator's key"),
        (403, KeyRefusedError, "does not take the operator's key"),
        (404, DirectoryError, "answers HTTP 404 instead of statistics"),
        (500, DirectoryError, "answers HTTP 500 instead of statistics"),
    ],
)
async def test_anything_else_is_told(http, fake_ray, status: int, error: type[Exception], says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    fake_ray.override = answer
    with pytest.raises(error, match=says):
        await Directories(http).statistics(fake_ray.url, "/tiny", "secret")


async def test_too_much_is_refused(http, fake_ray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MOST_BYTES", 300_000)
    fake_ray.statistics = b"x" * 400_000
    with pytest.raises(RayAnswerRefusedError):
        await Directories(http).statistics(fake_ray.url, "/tiny", "secret")


async def test_where_nobody_is(http, unused_tcp_port: int) -> None:
    with pytest.raises(DirectoryError, match=r"spec.runtime.rayCluster.serveURL is http://127.0.0.1"):
        await Directories(http).statistics(f"http://127.0.0.1:{unused_tcp_port}", "/tiny", "secret")
