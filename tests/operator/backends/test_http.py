"""What becomes of every way not to get an answer."""

import asyncio
import socket
import threading
from typing import Any

import pytest
from aiohttp import web

from moe_operator.backends.addresses import AddressPolicy
from moe_operator.backends.errors import RayAddressRefusedError, RayUnreachableError
from moe_operator.backends.http import HttpClient


async def refusal(http: HttpClient, url: str, seconds: float = 2.0) -> str:
    with pytest.raises(RayUnreachableError) as caught:
        await http.call("GET", url, seconds=seconds)
    return str(caught.value)


async def test_connection_refused(http: HttpClient, closed_address: str) -> None:
    assert await refusal(http, closed_address) == f"{closed_address}: connection refused"


async def test_no_answer(http: HttpClient, black_hole: str) -> None:
    assert await refusal(http, black_hole, seconds=1) == f"{black_hole}: no answer within 1 s"


async def test_dead_names_hold_up_no_other_thread(http: HttpClient, monkeypatch: pytest.MonkeyPatch) -> None:
    released, resolve = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("dead-"):
            released.wait(10)
            raise socket.gaierror("no answer")
        return resolve(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    names = [asyncio.create_task(refusal(http, f"http://dead-{number}:8265", seconds=5)) for number in range(20)]
    try:
        await asyncio.sleep(0.1)
        assert await asyncio.wait_for(asyncio.to_thread(lambda: "planned"), 2) == "planned"
    finally:
        released.set()
    assert {said.partition(": ")[2] for said in await asyncio.gather(*names)} == {"the host name cannot be resolved"}


async def test_unknown_host(http: HttpClient) -> None:
    assert await refusal(http, "http://nowhere.invalid") == "http://nowhere.invalid: the host name cannot be resolved"


async def test_tls_where_there_is_none(http: HttpClient, fake_ray) -> None:
    url = fake_ray.url.replace("http:", "https:")
    assert "does not speak TLS" in await refusal(http, url)


async def test_hanging_up(http: HttpClient, fake_ray) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        request.transport.close()
        return web.Response()

    fake_ray.override = hang_up
    assert await refusal(http, fake_ray.url) == f"{fake_ray.url}: it closed the connection before it had answered"


async def test_redirects_are_answers(http: HttpClient, fake_ray) -> None:
    visited = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        visited.append(request.path)
        raise web.HTTPFound("/elsewhere")

    fake_ray.override = redirect
    assert (await http.call("GET", fake_ray.url + "/start", seconds=2)).status == 302
    assert visited == ["/start"]


async def test_the_token_travels_as_bearer_and_no_cookie_does(http: HttpClient, fake_ray) -> None:
    seen = []

    async def bake(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), request.headers.get("Cookie")))
        answer = web.Response()
        answer.set_cookie("session", "x")
        return answer

    fake_ray.override = bake
    await http.call("GET", fake_ray.url, seconds=2, token="secret")
    await http.call("GET", fake_ray.url, seconds=2)
    assert seen == [("Bearer secret", None), (None, None)]


async def test_a_name_that_resolves_to_loopback_is_refused_at_the_connection(fake_ray) -> None:
    url = fake_ray.url.replace("127.0.0.1", "localhost")
    async with HttpClient(AddressPolicy(refuse_local=True)) as bounded:
        with pytest.raises(RayAddressRefusedError, match="localhost"):
            await bounded.call("GET", url, seconds=2)
        with pytest.raises(RayAddressRefusedError, match=r"127\.0\.0\.1"):
            await bounded.call("GET", fake_ray.url, seconds=2)
    assert fake_ray.gets == 0
