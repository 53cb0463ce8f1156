"""What each answer of a directory means."""

import json

import pytest
from aiohttp import web
from moe_facts import FACTS

from moe_contract.applications import CORE_IMPORT_PATH
from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, DirectoryReport, Progress
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    NobodyThereError,
    RayAddressRefusedError,
    RayAnswerRefusedError,
    RouteMissingError,
)
from moe_operator.runtimes.report import MOST_BYTES

REPORT = DirectoryReport(term=3, revision=7, epoch=9, progress=Progress(copied=4, total=8, settled=False))


async def test_a_report(http, fake_ray) -> None:
    keys = []

    async def answer(request: web.Request) -> web.StreamResponse:
        keys.append((request.path, request.headers["Authorization"]))
        assert request.headers[CONTRACT_HEADER] == str(CONTRACT)
        return web.Response(text=REPORT.model_dump_json())

    fake_ray.override = answer
    assert await Directories(http).read(fake_ray.url + "/", "/tiny", "secret") == REPORT
    assert await Directories(http).read(fake_ray.url, "/", "secret") == REPORT
    assert keys == [("/tiny/internal/report", "Bearer secret"), ("/internal/report", "Bearer secret")]


async def test_no_route_is_not_an_outage(http, fake_ray) -> None:
    with pytest.raises(RouteMissingError, match="no route /tiny/internal/report"):
        await Directories(http).read(fake_ray.url, "/tiny", "secret")
    fake_ray.configs["c"] = {"name": "c", "route_prefix": "/tiny", "import_path": CORE_IMPORT_PATH}
    with pytest.raises(DirectoryError, match="HTTP 503") as caught:
        await Directories(http).read(fake_ray.url, "/tiny", "secret")
    assert not isinstance(caught.value, NobodyThereError)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<html>internal", "json_invalid"),
        ("{}", "field term: missing"),
        ('{"term": "internal"}', "field term: int_parsing"),
        (REPORT.model_dump_json().replace('"shards":[]', '"shards":[{"internal":1}]'), "field shards.0.index: missing"),
    ],
)
async def test_what_is_no_report_names_the_releases_and_repeats_nothing(http, fake_ray, text: str, says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.Response(text=text)

    fake_ray.override = answer
    with pytest.raises(DirectoryError, match=rf"\({says}\): run the same release") as caught:
        await Directories(http).read(fake_ray.url, "/tiny", "secret")
    assert "/internal/report answers" in str(caught.value)
    assert str(caught.value).count("internal") == 1


@pytest.mark.parametrize("route", ["@127.0.0.1:1/x", "0/x", "/a b", "/a?b="])
async def test_a_route_that_ray_tells_cannot_change_where_the_key_goes(http, fake_ray, route: str) -> None:
    with pytest.raises(RayAddressRefusedError, match="not a path"):
        await Directories(http).read(fake_ray.url, route, "secret")


async def test_nobody_at_the_serve_address(http, closed_address: str) -> None:
    with pytest.raises(NobodyThereError, match=r"Serve is at .*connection refused"):
        await Directories(http).read(closed_address, "/tiny", "secret")


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_that_is_not_taken(http, fake_ray, status: int) -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, text="internal")

    fake_ray.override = refuse
    with pytest.raises(KeyRefusedError, match="does not take the operator's key"):
        await Directories(http).read(fake_ray.url, "/tiny", "secret")


async def test_a_report_that_is_too_large_is_told_and_not_asked_for_again_at_once(http, fake_ray) -> None:
    asked = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.path)
        return web.Response(body=b" " * (MOST_BYTES + 1))

    fake_ray.override = answer
    directories = Directories(http)
    for _ in range(3):
        with pytest.raises(RayAnswerRefusedError, match="/big/internal/report answers more than 4 MiB"):
            await directories.read(fake_ray.url, "/big", "secret")
    assert asked == ["/big/internal/report"]
    # Another deployment's directory behind the same Serve is another matter.
    fake_ray.override = None
    with pytest.raises(RouteMissingError):
        await directories.read(fake_ray.url, "/tiny", "secret")


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"layers": 1e9}, r"field model\.layers: Input should be less than or equal to 1024"),
        ({"layers": 0}, r"field model\.layers: Input should be greater than or equal to 1"),
        ({"experts": 10**6}, r"field model\.experts: Input should be less than or equal to 32767"),
    ],
)
async def test_a_model_that_cannot_be_is_told_by_its_field(http, fake_ray, model: dict, says: str) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return web.json_response({**json.loads(REPORT.model_dump_json()), "model": {**FACTS.model_dump(), **model}})

    fake_ray.override = answer
    with pytest.raises(DirectoryError, match=says):
        await Directories(http).read(fake_ray.url, "/tiny", "secret")
