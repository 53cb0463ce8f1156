"""What becomes of every way not to get an answer."""

import asyncio
import contextlib
import json
import socket
import threading
import time
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from fake_ray import FakeRay, serving
from test_endpoint import SPELLINGS_OF_LOOPBACK
from yarl import URL

from moe_contract.serve.state import read_state
from moe_operator.kube.errors import SecretNotLabelledError
from moe_operator.offload.process import WorkerProcess
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import RayAddressRefusedError, RayAnswerRefusedError, RayUnreachableError
from moe_operator.runtimes.http import client as module
from moe_operator.runtimes.http import resolver
from moe_operator.runtimes.http.addresses import AddressPolicy
from moe_operator.runtimes.http.budget import ByteBudget
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.tenant import on_behalf_of


async def refusal(http: HttpClient, url: str, seconds: float = 2.0) -> str:
    with pytest.raises(RayUnreachableError) as caught:
        await http.call("GET", url, "/", seconds=seconds)
    return str(caught.value)


async def test_connection_refused(http: HttpClient, closed_address: str) -> None:
    assert await refusal(http, closed_address) == f"{closed_address}/: connection refused"


async def test_no_answer(http: HttpClient, black_hole: str) -> None:
    assert await refusal(http, black_hole, seconds=1) == f"{black_hole}/: no answer within 1 s"


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


async def test_names_that_are_known_to_be_dead_hold_up_no_other_name(
    http: HttpClient, fake_ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, known, resolve = threading.Event(), False, socket.getaddrinfo

    def getaddrinfo(host: str, *rest: Any, **more: Any) -> Any:
        if host.startswith("dead-"):
            released.wait(20) if known else time.sleep(0.1)
            raise socket.gaierror("no answer")
        return resolve(host, *rest, **more)

    def ask_the_dead() -> list[asyncio.Task[str]]:
        return [asyncio.create_task(refusal(http, f"http://dead-{number}:8265", seconds=10)) for number in range(40)]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(resolver, "SLOW_SECONDS", 0.05)
    await asyncio.gather(*ask_the_dead())
    known = True
    waiting = ask_the_dead()
    try:
        await asyncio.sleep(0.1)
        named = fake_ray.url.replace("127.0.0.1", "localhost")
        answer = await http.call("GET", named, "/api/serve/applications/", seconds=5.0)
        assert answer.status == 200
    finally:
        released.set()
        await asyncio.gather(*waiting)


async def test_unknown_host(http: HttpClient) -> None:
    assert await refusal(http, "http://nowhere.invalid") == "http://nowhere.invalid/: the host name cannot be resolved"


async def test_tls_where_there_is_none(http: HttpClient, fake_ray) -> None:
    url = fake_ray.url.replace("http:", "https:")
    assert "does not speak TLS" in await refusal(http, url)


async def test_hanging_up(http: HttpClient, fake_ray) -> None:
    async def hang_up(request: web.Request) -> web.StreamResponse:
        request.transport.close()
        return web.Response()

    fake_ray.override = hang_up
    assert await refusal(http, fake_ray.url) == f"{fake_ray.url}/: it closed the connection before it had answered"


async def test_redirects_are_answers(http: HttpClient, fake_ray) -> None:
    visited = []

    async def redirect(request: web.Request) -> web.StreamResponse:
        visited.append(request.path)
        raise web.HTTPFound("/elsewhere")

    fake_ray.override = redirect
    assert (await http.call("GET", fake_ray.url, "/start", seconds=2)).status == 302
    assert visited == ["/start"]


async def test_the_token_travels_as_bearer_and_no_cookie_does(http: HttpClient, fake_ray) -> None:
    seen = []

    async def bake(request: web.Request) -> web.StreamResponse:
        seen.append((request.headers.get("Authorization"), request.headers.get("Cookie")))
        answer = web.Response()
        answer.set_cookie("session", "x")
        return answer

    fake_ray.override = bake
    await http.call("GET", fake_ray.url, "/", seconds=2, credential=Credential("secret"))
    await http.call("GET", fake_ray.url, "/", seconds=2)
    assert seen == [("Bearer secret", None), (None, None)]


async def test_a_name_that_resolves_to_loopback_is_refused_at_the_connection(fake_ray) -> None:
    url = fake_ray.url.replace("127.0.0.1", "localhost")
    async with HttpClient(AddressPolicy(refuse_local=True)) as bounded:
        with pytest.raises(RayAddressRefusedError, match="localhost"):
            await bounded.call("GET", url, "/", seconds=2)
        with pytest.raises(RayAddressRefusedError, match=r"127\.0\.0\.1"):
            await bounded.call("GET", fake_ray.url, "/", seconds=2)
    assert fake_ray.gets == 0


@dataclass
class Listener:
    """A server that says something of its own; ``connections`` counts who came, whatever they then sent."""

    url: str = ""
    connections: int = 0


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    heard = Listener()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.connections += 1
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 8\r\nConnection: close\r\n\r\ninternal")
        writer.close()

    server = await asyncio.start_server(answer, "0.0.0.0", 0)
    async with server:
        heard.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield heard


@pytest.mark.parametrize("host", [*SPELLINGS_OF_LOOPBACK, "127.0.0.1", "localhost", "0.0.0.0", "[::1]"], ids=ascii)
async def test_no_spelling_of_loopback_is_connected_to(listener: Listener, host: str) -> None:
    url = listener.url.replace("127.0.0.1", host)
    async with HttpClient(AddressPolicy(refuse_local=True)) as bounded:
        with pytest.raises(RayAddressRefusedError) as caught:
            await bounded.call("GET", url, "/", seconds=2, credential=Credential("secret"))
    assert "internal" not in str(caught.value)
    await asyncio.sleep(0.05)
    assert listener.connections == 0


@pytest.mark.parametrize("read_as", ["127.0.0.1", "::1"])
async def test_the_socket_is_judged_whatever_the_library_makes_of_the_host(
    listener: Listener, read_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that reads another host than was judged: nothing that it would connect to is connected to."""
    elsewhere = URL(f"{listener.url.replace('127.0.0.1', f'[{read_as}]' if ':' in read_as else read_as)}/")
    monkeypatch.setattr(module, "_as_judged", lambda url: elsewhere)
    async with HttpClient(AddressPolicy(refuse_local=True)) as bounded:
        with pytest.raises(RayAddressRefusedError, match="own pod or node"):
            await bounded.call("GET", f"http://10.0.0.1:{elsewhere.port}", "/", seconds=2)
    async with HttpClient(AddressPolicy()) as free:
        with pytest.raises(RayAddressRefusedError, match="was judged, and not port"):
            await free.call("GET", "http://10.0.0.1:1", "/", seconds=2)
    assert listener.connections == 0


async def test_a_library_that_reads_another_host_sends_nothing(
    listener: Listener, http: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "URL", lambda text, encoded: URL(listener.url))
    with pytest.raises(RayAddressRefusedError, match=r"reads 127\.0\.0\.1: nothing was sent"):
        await http.call("GET", "http://10.0.0.1:1", "/", seconds=2)
    assert listener.connections == 0


@pytest.mark.parametrize(
    "said",
    [
        b"internal secret\r\n\r\n",
        b"HTTP/1.1 internal secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ninternal secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: internal secret\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\ninternal secret\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"internal secret" * 1000 + b"\r\n\r\n",
    ],
)
async def test_nothing_that_is_said_is_repeated(http: HttpClient, said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        found = await refusal(http, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert "internal" not in found
    assert "secret" not in found


def as_text(body: bytearray) -> str:
    """A job, such as a reader of an answer."""
    return f"{len(body)} {body[:10].decode()}"


def answering(fake_ray, body: bytes, declared: bool = True, status: int = 200, **headers: str) -> list[int]:
    """Have the fake answer this; returns where the number of bytes that it got rid of is counted."""
    sent = []

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers=headers)
        if declared:
            response.content_length = len(body)
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            for begin in range(0, len(body), 65536):
                await response.write(body[begin : begin + 65536])
                sent.append(len(body[begin : begin + 65536]))
        return response

    fake_ray.override = answer
    return sent


async def read(http: HttpClient, url: str, most: int = 2 * module.SMALL_BYTES, **more: Any) -> tuple[Any, Any]:
    return await http.read(url, "/state", as_text, most=most, seconds=more.pop("seconds", 5.0), **more)


@pytest.mark.parametrize("declared", [True, False])
async def test_an_answer_is_read_to_its_bound_and_no_further(http: HttpClient, fake_ray, declared: bool) -> None:
    most = 2 * module.SMALL_BYTES
    for size in (0, 1, module.SMALL_BYTES, module.SMALL_BYTES + 1, most):
        answering(fake_ray, b"x" * size, declared)
        assert (await read(http, fake_ray.url))[1] == f"{size} {'x' * min(size, 10)}"
    for size in (most + 1, 40 * most):
        sent = answering(fake_ray, b"x" * size, declared)
        with pytest.raises(RayAnswerRefusedError, match=r"/state answers more than 0.5 MiB.*asked again"):
            await read(http, fake_ray.url)
        assert sum(sent) < most + 8 * 2**20  # what the sockets take


async def test_of_what_is_no_success_only_the_beginning_is_read(http: HttpClient, fake_ray) -> None:
    sent = answering(fake_ray, b"x" * 30 * 2**20, status=500)
    answer, read_out = await read(http, fake_ray.url)
    assert (answer.status, len(answer.body), read_out) == (500, module.TOLD_BYTES, None)
    assert sum(sent) < 8 * 2**20
    answering(fake_ray, b"x" * 2**20, declared=False)
    assert len((await http.call("PUT", fake_ray.url, "/", seconds=5, body=b"{}")).body) == module.TOLD_BYTES


async def test_a_compressed_answer_is_refused_unread(http: HttpClient, fake_ray) -> None:
    """Of a million zeros a thousand bytes are left."""
    asked: list[str | None] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        asked.append(request.headers.get("Accept-Encoding"))
        return web.Response(body=zlib.compress(b"0" * 2**20), headers={"Content-Encoding": "deflate"})

    fake_ray.override = answer
    with pytest.raises(RayAnswerRefusedError, match="compresses its answers"):
        await read(http, fake_ray.url)
    assert asked == ["identity"]


async def test_large_answers_of_one_address_take_turns_and_leave_room_for_others(
    http: HttpClient, fake_ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "_large", ByteBudget(4 * module.SMALL_BYTES))
    released, begun = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(request: web.Request) -> web.StreamResponse:
        begun.release()
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x" * (module.SMALL_BYTES + 1))
        await released.wait()
        return response

    fake_ray.override = slow
    waiting = [asyncio.create_task(read(http, fake_ray.url)) for _ in range(3)]
    async with asyncio.timeout(5):
        for _ in waiting:
            await begun.acquire()
    other = FakeRay()
    async with serving(other.handle) as other.url:
        answering(other, b"y" * (module.SMALL_BYTES + 1))
        assert (await read(http, other.url))[1].endswith(" yyyyyyyyyy")
    released.set()
    assert {result[1] for result in await asyncio.gather(*waiting)} == {f"{module.SMALL_BYTES + 1} xxxxxxxxxx"}


async def test_large_answers_of_many_addresses_of_one_tenant_hold_up_nobody_else(fake_ray) -> None:
    """Of each tenant one is held at a time, so whoever comes waits for one job at most."""
    heavy = json.dumps({"applications": {f"a{n}": {"status": "RUNNING"} for n in range(8_000)}}).encode()
    heavy += b" " * (3 * 2**20)
    answering(fake_ray, b'{"applications": {}}' + b" " * module.SMALL_BYTES)

    async def much(request: web.Request) -> web.StreamResponse:
        return web.Response(body=heavy)

    async def look(namespace: str, url: str) -> None:
        with on_behalf_of(namespace):
            await http.read(url, "/", read_state, most=2**23, seconds=10.0)

    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            HttpClient(AddressPolicy(), await stack.enter_async_context(WorkerProcess()))
        )
        urls = [await stack.enter_async_context(serving(much)) for _ in range(40)]
        waiting = [asyncio.create_task(look("much", url)) for url in urls]
        async with asyncio.timeout(20):
            while not any(each.done() for each in waiting):  # noqa: ASYNC110  # the moment is not told of
                await asyncio.sleep(0.001)
        for _ in range(3):
            before = sum(each.done() for each in waiting)
            await asyncio.wait_for(look("little", fake_ray.url), 10)
            assert sum(each.done() for each in waiting) <= before + 2
            assert module.LARGE_BYTES - http._large._left <= len(heavy)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_server_that_sends_slowly_has_its_own_time_and_not_more(http: HttpClient, fake_ray) -> None:
    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)
            await asyncio.sleep(0.1)

    fake_ray.override = slow
    with pytest.raises(RayUnreachableError, match="no answer within 1 s"):
        await read(http, fake_ray.url, most=2**23, seconds=1.0)


async def test_who_waits_for_room_for_too_long_is_told(
    http: HttpClient, fake_ray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGE_WAIT_SECONDS", 0.2)
    answering(fake_ray, b"x" * (module.SMALL_BYTES + 1))
    async with http._large.taking("somebody", module.LARGE_BYTES):
        with pytest.raises(RayUnreachableError, match="other large answers are being read"):
            await read(http, fake_ray.url)
        with pytest.raises(RayUnreachableError, match="other large answers are being read"):
            await http.call("PUT", fake_ray.url, "/", seconds=5, body=b" " * (module.SMALL_BYTES + 1))
    assert (await read(http, fake_ray.url))[1] is not None


async def test_a_token_is_asked_about_before_each_connection_that_is_made_for_it(http: HttpClient, fake_ray) -> None:
    asked: list[bool] = []
    came: list[str | None] = []
    close = False

    async def check() -> None:
        asked.append(True)
        if len(asked) > 2:
            raise SecretNotLabelledError("no longer")

    async def answer(request: web.Request) -> web.StreamResponse:
        came.append(request.headers.get("Authorization"))
        reply = web.Response()
        if close:
            reply.force_close()
        return reply

    async def ask() -> None:
        await http.call("GET", fake_ray.url, "/", seconds=2, credential=Credential("secret", check))

    fake_ray.override = answer
    for _ in range(3):
        await ask()
    assert (len(asked), len(came)) == (1, 3)
    close = True
    for _ in range(2):
        await ask()
    assert (len(asked), len(came)) == (2, 5)
    with pytest.raises(SecretNotLabelledError):
        await ask()
    assert (len(asked), len(came)) == (3, 5)
