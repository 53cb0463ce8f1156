"""What each answer of a directory means."""

import pytest
from aiohttp import web

from moe_operator.backends.directory import read_report
from moe_operator.backends.errors import DirectoryError, RouteMissingError
from moe_placement.wire.applications import CORE_IMPORT_PATH
from moe_placement.wire.report import DirectoryReport, Progress

REPORT = DirectoryReport(term=3, revision=7, epoch=9, progress=Progress(copied=4, total=8, settled=False))


async def test_a_report(http, fake_ray) -> None:
    keys = []

    async def answer(request: web.Request) -> web.StreamResponse:
        keys.append((request.path, request.headers["Authorization"]))
        return web.Response(text=REPORT.model_dump_json())

    fake_ray.override = answer
    assert await read_report(http, fake_ray.url + "/", "/tiny", "secret") == REPORT
    assert await read_report(http, fake_ray.url, "/", "secret") == REPORT
    assert keys == [("/tiny/internal/report", "Bearer secret"), ("/internal/report", "Bearer secret")]


async def test_no_route_is_not_an_outage(http, fake_ray) -> None:
    with pytest.raises(RouteMissingError, match="no route /tiny/internal/report"):
        await read_report(http, fake_ray.url, "/tiny", "secret")
    fake_ray.configs["c"] = {"name": "c", "route_prefix": "/tiny", "import_path": CORE_IMPORT_PATH}
    with pytest.raises(DirectoryError, match="HTTP 503"):
        await read_report(http, fake_ray.url, "/tiny", "secret")


@pytest.mark.parametrize("text", ["<html>", "{}", '{"term": -1}', REPORT.model_dump_json()[:-1] + ', "new": 1}'])
async def test_what_is_no_report_names_the_releases(http, fake_ray, text: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    fake_ray.override = answer
    with pytest.raises(DirectoryError, match="run the same release"):
        await read_report(http, fake_ray.url, "/tiny", "secret")


async def test_nobody_at_the_serve_address(http, closed_address: str) -> None:
    with pytest.raises(DirectoryError, match=r"serveURL is .*connection refused"):
        await read_report(http, closed_address, "/tiny", "secret")
