"""What each answer of a directory that is asked for its statistics means, and who waits for whom."""

import asyncio

import pytest
from aiohttp import web

from moe_contract.report import STATISTICS_OF_HEADER
from moe_operator.runtimes import statistics
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    RayAnswerRefusedError,
)
from moe_operator.runtimes.http.client import SMALL_BYTES, HttpClient
from moe_operator.runtimes.statistics import TrafficStatistics
from moe_operator.tenant import on_behalf_of


async def read(http: HttpClient, serve_url: str, route: str = "/tiny") -> bytearray:
    async with TrafficStatistics(http).read(serve_url, route, "secret") as packed:
        return packed


async def test_statistics_come_as_they_are(http, fake_ray) -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append((request.path, request.headers["Authorization"]))
        return web.Response(body=b"packed" * 100_000)

    fake_ray.override = answer
    assert await read(http, fake_ray.url + "/") == bytearray(b"packed" * 100_000)
    assert asked == [("/tiny/internal/statistics", "Bearer secret")]


async def test_before_there_are_any_there_is_nothing(http, fake_ray) -> None:
    assert await read(http, fake_ray.url) == bytearray()


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
        await read(http, fake_ray.url)


async def test_those_of_a_former_cluster_are_handed_over_as_they_are(http, fake_ray) -> None:
    taken = []

    async def take(request: web.Request) -> web.StreamResponse:
        headers = [request.headers[name] for name in ("Authorization", "Content-Type", STATISTICS_OF_HEADER)]
        taken.append((request.method, request.path, *headers, await request.read()))
        return web.Response(status=204)

    fake_ray.override = take
    packed = bytearray(b"packed" * 100_000)
    await TrafficStatistics(http).hand_over(fake_ray.url + "/", "/tiny", "secret", packed, "tiny-1")
    said = ("Bearer secret", "application/octet-stream", "tiny-1")
    assert taken == [("PUT", "/tiny/internal/statistics", *said, bytes(packed))]


@pytest.mark.parametrize(
    ("status", "error", "says"),
    [
        (401, KeyRefusedError, "does not take the operator's key"),
        (400, DirectoryError, "does not take statistics"),
        (405, DirectoryError, "does not take statistics"),
        (200, DirectoryError, "does not take statistics"),
    ],
)
async def test_whoever_does_not_take_them_is_told(
    http, fake_ray, status: int, error: type[Exception], says: str
) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status)

    fake_ray.override = answer
    with pytest.raises(error, match=says):
        await TrafficStatistics(http).hand_over(fake_ray.url, "/tiny", "secret", bytearray(b"packed"), "tiny-1")


async def test_they_cannot_be_handed_to_nobody(http, closed_address: str) -> None:
    with pytest.raises(DirectoryError, match=r"Serve is at http://127.0.0.1"):
        await TrafficStatistics(http).hand_over(closed_address, "/tiny", "secret", bytearray(b"packed"), "tiny-1")


async def test_too_much_is_refused_and_not_asked_for_again_at_once(http, fake_ray, monkeypatch) -> None:
    """The report of the same directory is another matter."""
    monkeypatch.setattr(statistics, "MOST_BYTES", 300_000)
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=b"x" * 400_000 if request.path.endswith("statistics") else b"{}")

    fake_ray.override = answer
    directories = Directories(http)
    for _ in range(2):
        with pytest.raises(RayAnswerRefusedError):
            async with directories.statistics.read(fake_ray.url, "/tiny", "secret"):
                pass
    with pytest.raises(DirectoryError, match="something else than this release's report"):
        await directories.read(fake_ray.url, "/tiny", "secret")
    assert asked == ["/tiny/internal/statistics", "/tiny/internal/report"]


async def test_large_ones_of_one_tenant_are_held_one_at_a_time(http, fake_ray) -> None:
    large = 2 * SMALL_BYTES

    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(large if "large" in request.path else 10))

    async def length(route: str) -> int:
        async with all_of_them.read(fake_ray.url, route, "secret") as packed:
            return len(packed)

    fake_ray.override = answer
    all_of_them = TrafficStatistics(http)
    async with all_of_them.read(fake_ray.url, "/large", "secret"):
        waiting = asyncio.create_task(length("/also-large"))
        assert await length("/small") == 10
        with on_behalf_of("another"):
            assert await length("/large") == large
        assert not waiting.done()
    assert await waiting == large


async def test_who_answers_nothing_holds_up_nobody(http, fake_ray, black_hole: str) -> None:
    """Not even others of the same tenant, however many there are."""
    all_of_them = TrafficStatistics(http)
    silent = [asyncio.create_task(nothing(all_of_them, black_hole, f"/{number}")) for number in range(4)]
    await asyncio.sleep(0)
    async with all_of_them.read(fake_ray.url, "/tiny", "secret") as packed:
        assert packed == bytearray()
    for task in silent:
        task.cancel()
    await asyncio.gather(*silent, return_exceptions=True)


async def nothing(all_of_them: TrafficStatistics, url: str, route: str) -> None:
    async with all_of_them.read(url, route, "secret"):
        raise AssertionError("something was answered")


async def test_where_nobody_is(http, closed_address: str) -> None:
    with pytest.raises(DirectoryError, match=r"Serve is at http://127.0.0.1"):
        await read(http, closed_address)
