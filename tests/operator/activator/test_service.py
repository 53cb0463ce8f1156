"""Requests that are held, over real connections: a client, the activator, and a deployment that wakes or does not."""

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from announcements import KEY, OTHER, announcement, digest
from fake_ray import serving
from yarl import URL

from moe_operator.activator import server
from moe_operator.activator.forwarding import PASSED_ON, Forwarder
from moe_operator.activator.metrics import Metrics
from moe_operator.activator.places import Places
from moe_operator.activator.roster import Roster
from moe_operator.activator.server import held_requests
from moe_operator.activator.service import Service
from moe_operator.activator.waking import Waker
from moe_operator.kube.errors import ConflictError, KubeError

PATH = "/team/tiny/v1/completions"
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
SOON = 30.0


@dataclass
class FakeScale:
    """The scale of every deployment. ``faults``: raised by the next calls, in turn."""

    replicas: int = 0
    version: int = 1
    writes: list[tuple[str, int, str]] = field(default_factory=list)
    faults: list[KubeError] = field(default_factory=list)

    async def get_scale(self, resource: Any, namespace: str, name: str) -> dict[str, Any]:
        if self.faults:
            raise self.faults.pop(0)
        spec = {"replicas": self.replicas} if self.replicas else {}
        return {"metadata": {"resourceVersion": str(self.version)}, "spec": spec}

    async def scale(self, resource: Any, namespace: str, name: str, replicas: int, version: str, manager: str) -> None:
        assert version == str(self.version)
        self.replicas, self.version = replicas, self.version + 1
        self.writes.append((name, replicas, manager))


@dataclass
class Stage:
    """The activator in front of one deployment ``team/tiny``, which ``handler`` is once it serves."""

    url: str
    roster: Roster
    scale: FakeScale
    session: aiohttp.ClientSession
    places: Places
    metrics: Metrics
    upstream: str = ""
    seen: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None

    def tell(self, **fields: Any) -> None:
        told = announcement(**fields)
        self.roster.tell(told.key, told)

    def serves(self) -> None:
        self.tell(held=False)

    async def ask(
        self, path: str = PATH, body: Any = b"{}", headers: dict[str, str] | None = None
    ) -> tuple[int, str, Any]:
        """Status, what was said, headers."""
        answered = self.session.post(self.url + path, data=body, headers=WITH_KEY if headers is None else headers)
        async with asyncio.timeout(SOON), answered as answer:
            return answer.status, await answer.text(), answer.headers

    async def until(self, what: str, check: Callable[[], bool]) -> None:
        for _ in range(int(SOON / 0.01)):
            if check():
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"waited {SOON:.0f} s for {what}")

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.seen.append((request.raw_path, dict(request.headers), body))
        if self.handler:
            return await self.handler(request)  # type: ignore[arg-type]
        return web.json_response({"said": body.decode()})


@contextlib.asynccontextmanager
async def stage_with(seconds: float = SOON, idle_seconds: float = SOON, **bounds: int) -> AsyncIterator[Stage]:
    roster, scale, places, metrics = Roster(), FakeScale(), Places(**bounds), Metrics()
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        to_deployment = await stack.enter_async_context(
            aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
        )
        stage = Stage("", roster, scale, session, places, metrics)
        stage.upstream = await stack.enter_async_context(serving(stage.answer))
        waker = Waker(scale, again_seconds=0.01)
        stack.push_async_callback(waker.close)
        forwarder = Forwarder(to_deployment, lambda _: stage.upstream, idle_seconds)
        service = Service(roster, waker, forwarder, metrics, places, seconds=seconds)
        port = await stack.enter_async_context(held_requests(("127.0.0.1", 0), service.handle, 0.1))
        stage.url = f"http://127.0.0.1:{port}"
        stage.tell()
        yield stage


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with stage_with() as made:
        yield made


def code(text: str) -> str:
    return str(json.loads(text)["error"]["code"])


async def test_the_first_request_is_held_and_answered_after_the_wake_up(stage: Stage) -> None:
    held = [asyncio.create_task(stage.ask(body=b"one")), asyncio.create_task(stage.ask(body=b"two"))]
    await stage.until("the wake-up", lambda: stage.scale.replicas == 2 and stage.places.requests == 2)
    assert stage.scale.writes == [("tiny", 2, "moe-activator")], "two requests wake once"
    assert stage.seen == []
    stage.serves()
    answers = await asyncio.gather(*held)
    assert sorted((status, text) for status, text, _ in answers) == [(200, '{"said": "one"}'), (200, '{"said": "two"}')]
    assert {headers["Connection"] for _, _, headers in answers} == {"close"}, "the next request goes past"
    path, headers, _ = stage.seen[0]
    assert (path, headers["Authorization"], headers[PASSED_ON]) == (PATH, f"Bearer {KEY}", "1")
    assert (stage.places.requests, stage.places.bytes) == (0, 0)


@pytest.mark.parametrize("headers", [{}, {"Authorization": f"Bearer {OTHER}"}, {"Authorization": f"Basic {KEY}"}])
async def test_who_has_no_key_wakes_nobody_and_sends_no_body(stage: Stage, headers: dict[str, str]) -> None:
    async def endless() -> AsyncIterator[bytes]:
        yield b"begun"
        await asyncio.sleep(SOON)

    status, text, answered = await stage.ask(body=endless(), headers=headers)
    assert (status, code(text), answered["WWW-Authenticate"]) == (401, "invalid_api_key", "Bearer")
    assert stage.scale.writes == []
    assert stage.places.bytes == 0


async def test_an_open_deployment_asks_for_no_key(stage: Stage) -> None:
    stage.tell(open=True, keys=())
    held = asyncio.create_task(stage.ask(headers={}))
    await stage.until("the wake-up", lambda: stage.scale.replicas == 2)
    stage.serves()
    assert (await held)[0] == 200


@pytest.mark.parametrize("path", ["/team/tiny/metrics", "/team/tiny", "/team/tiny/healthz"])
async def test_what_is_not_for_the_model_wakes_nobody(stage: Stage, path: str) -> None:
    status, text, headers = await stage.ask(path)
    assert (status, code(text), headers["Retry-After"]) == (503, "asleep", "10")
    assert stage.scale.writes == []


async def test_a_path_of_nobody_is_not_found(stage: Stage) -> None:
    status, text, _ = await stage.ask("/team/other/v1/completions")
    assert (status, code(text)) == (404, "not_found")


async def test_equal_routes_are_told_apart_by_keys_or_refused(stage: Stage) -> None:
    stage.tell(route="/chat")
    twin = announcement("twin", route="/chat", keys=(digest(OTHER),))
    stage.roster.tell(twin.key, twin)
    held = asyncio.create_task(stage.ask("/chat/v1/completions", headers={"Authorization": f"Bearer {OTHER}"}))
    await stage.until("the wake-up", lambda: bool(stage.scale.writes))
    assert stage.scale.writes[0][0] == "twin"
    held.cancel()
    twin = announcement("twin", route="/chat")
    stage.roster.tell(twin.key, twin)
    status, text, _ = await stage.ask("/chat/v1/completions")
    assert (status, code(text)) == (421, "misdirected_request")


@pytest.mark.parametrize("keys", [(), (digest(KEY),)])
async def test_an_open_deployment_of_another_namespace_takes_no_request(stage: Stage, keys: tuple[str, ...]) -> None:
    stage.tell(route="/chat", keys=keys)
    for rival in (
        announcement(namespace="rivals", route="/chat", open=True, keys=(), held=held) for held in (True, False)
    ):
        stage.roster.tell(rival.key, rival)
        status, text, _ = await stage.ask("/chat/v1/completions", headers={"Authorization": f"Bearer {OTHER}"})
        assert (status, code(text)) == (401, "invalid_api_key")
    assert (stage.seen, stage.scale.writes) == ([], [])


async def test_no_more_requests_than_places_are_held() -> None:
    async with stage_with(most_requests=3) as stage:
        held = [asyncio.create_task(stage.ask()) for _ in range(3)]
        await stage.until("three to be held", lambda: stage.places.requests == 3)
        status, text, headers = await stage.ask()
        assert (status, code(text), headers["Retry-After"]) == (503, "queue_full", "10")
        stage.serves()
        assert [(await each)[0] for each in held] == [200, 200, 200]
        assert (await stage.ask())[0] == 200


async def test_no_more_bytes_than_there_is_room_for_are_held() -> None:
    async with stage_with(most_bytes=1 << 20) as stage:
        first = asyncio.create_task(stage.ask(body=b"x" * 700_000))
        await stage.until("the first body", lambda: stage.places.bytes == 700_000)
        status, text, _ = await stage.ask(body=b"x" * 700_000)
        assert (status, code(text)) == (503, "queue_full")
        assert stage.places.bytes == 700_000
        stage.serves()
        assert (await first)[0] == 200
        assert stage.places.bytes == 0


async def test_what_is_held_is_counted_while_it_is(stage: Stage) -> None:
    def held() -> list[str]:
        lines = stage.metrics.exposition().decode().splitlines()
        return [line.removeprefix("moe_activator_held_") for line in lines if line.startswith("moe_activator_held_")]

    asked = asyncio.create_task(stage.ask(body=b"x" * 1000))
    await stage.until("the body", lambda: stage.places.bytes == 1000)
    assert held() == ["requests 1.0", "bytes 1000.0"]
    stage.serves()
    assert (await asked)[0] == 200
    await stage.until("the end", lambda: held() == ["requests 0.0", "bytes 0.0"])


async def test_a_body_larger_than_the_api_reads_is_refused_before_it_comes(stage: Stage) -> None:
    port = int(stage.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\nContent-Length: {(16 << 20) + 1}\r\n\r\n"
    writer.write(head.encode())
    try:
        async with asyncio.timeout(SOON):
            # Pythons differ in the words for it.
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
    finally:
        writer.close()


async def said_to(stage: Stage, sent: str) -> bytes:
    """All that is answered until the activator ends the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", URL(stage.url).port)
    writer.write(sent.encode())
    try:
        async with asyncio.timeout(SOON):
            return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("path", "key", "status"), [(PATH, OTHER, 401), ("/nobody/v1/models", KEY, 404), (PATH, KEY, 200)]
)
async def test_whatever_is_answered_ends_the_connection(stage: Stage, path: str, key: str, status: int) -> None:
    stage.serves()
    answered = await said_to(stage, f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\n\r\n")
    assert answered.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nConnection: close\r\n" in answered


@pytest.mark.parametrize(
    "head",
    [
        "".join(f"A-{number}: b\r\n" for number in range(server.MOST_HEADERS + 1)),
        f"A: {'b' * server.MOST_HEADER_BYTES}b\r\n",
    ],
    ids=["many", "long"],
)
async def test_large_heads_are_refused_before_they_are_whole(stage: Stage, head: str) -> None:
    assert (await said_to(stage, f"GET {PATH} HTTP/1.1\r\nHost: a\r\n{head}")).startswith(b"HTTP/1.0 400 ")


async def test_the_absolute_form_of_a_request_is_sent_on_as_the_other(stage: Stage) -> None:
    stage.serves()
    head = f"GET http://gateway.example.org{PATH}?a=%2Fb HTTP/1.1\r\nHost: gateway.example.org\r\n"
    answered = await said_to(stage, f"{head}Authorization: Bearer {KEY}\r\n\r\n")
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert stage.seen[0][0] == f"{PATH}?a=%2Fb"


async def test_a_packed_body_is_sent_on_as_it_came(stage: Stage) -> None:
    packed = gzip.compress(b"{}")

    async def plainly(request: web.Request) -> web.StreamResponse:
        return web.Response(text=request.headers["Content-Encoding"])

    stage.handler = plainly
    stage.serves()
    await stage.ask(body=packed, headers={**WITH_KEY, "Content-Encoding": "gzip"})
    assert stage.seen[0][1]["Content-Length"] == str(len(packed))


async def test_what_is_not_woken_in_time_is_told_when_to_try_again() -> None:
    async with stage_with(seconds=0.3) as stage:
        status, text, headers = await stage.ask()
        assert (status, code(text), headers["Retry-After"]) == (503, "not_ready", "10")
        assert stage.scale.writes == [("tiny", 2, "moe-activator")]


async def test_a_wake_up_that_the_api_server_refuses_is_tried_again(stage: Stage) -> None:
    stage.scale.faults = [KubeError("it does not answer"), ConflictError("somebody wrote", 409)]
    held = asyncio.create_task(stage.ask())
    await stage.until("the wake-up", lambda: stage.scale.replicas == 2)
    stage.serves()
    assert (await held)[0] == 200


async def test_a_deployment_that_somebody_else_has_woken_is_not_scaled(stage: Stage) -> None:
    stage.scale.replicas = 7
    held = asyncio.create_task(stage.ask())
    await stage.until("the request to be held", lambda: stage.places.requests == 1)
    stage.serves()
    assert (await held)[0] == 200
    assert stage.scale.writes == []


async def test_whoever_scales_to_0_while_requests_are_held_has_the_last_word() -> None:
    async with stage_with(seconds=1.0) as stage:
        held = asyncio.create_task(stage.ask())
        await stage.until("the wake-up", lambda: stage.scale.replicas == 2)
        stage.scale.replicas = 0
        assert (await held)[0] == 503
        assert len(stage.scale.writes) == 1


async def test_a_stream_passes_piece_by_piece(stage: Stage) -> None:
    more = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Of-The-Api": "1"})
        await response.prepare(request)
        await response.write(b"data: one\n\n")
        await more.wait()
        await response.write(b"data: two\n\n")
        await response.write_eof()
        return response

    stage.handler = stream
    stage.serves()
    async with asyncio.timeout(SOON), stage.session.post(stage.url + PATH, data=b"{}", headers=WITH_KEY) as answer:
        assert (answer.headers["Content-Type"], answer.headers["X-Of-The-Api"]) == ("text/event-stream", "1")
        assert await answer.content.readany() == b"data: one\n\n"
        assert (stage.places.requests, stage.places.bytes) == (0, 0), "what has begun keeps nobody's place"
        more.set()
        assert await answer.content.read() == b"data: two\n\n"


async def test_an_answer_passes_as_it_is(stage: Stage) -> None:
    packed = bytes(range(256))

    async def zipped(request: web.Request) -> web.StreamResponse:
        return web.Response(status=418, body=packed, headers={"Content-Encoding": "gzip", "Set-Cookie": "a=b"})

    stage.handler = zipped
    stage.serves()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        asked = session.get(URL(f"{stage.url}{PATH}?a=%2Fb&c", encoded=True), headers=WITH_KEY)
        async with asyncio.timeout(SOON), asked as answer:
            assert (answer.status, await answer.read()) == (418, packed)
            assert answer.headers["Content-Length"] == "256"
    path, headers, _ = stage.seen[0]
    assert path == f"{PATH}?a=%2Fb&c"
    assert "Content-Type" not in headers
    stage.handler = None
    await stage.ask()
    assert "Cookie" not in stage.seen[1][1], "a cookie of one client must not reach another"


async def test_one_that_is_not_ready_yet_is_asked_again(stage: Stage) -> None:
    early = [web.Response(status=404, text="Path not found"), web.Response(status=503, text="{}")]

    async def wakes(request: web.Request) -> web.StreamResponse:
        return early.pop(0) if early else web.json_response({"done": True})

    stage.handler = wakes
    stage.serves()
    assert (await stage.ask())[:2] == (200, '{"done": true}')
    assert len(stage.seen) == 3


async def test_an_error_of_the_api_is_the_answer(stage: Stage) -> None:
    async def refuses(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"code": "model_not_found"}}, status=404)

    stage.handler = refuses
    stage.serves()
    status, text, _ = await stage.ask()
    assert (status, code(text)) == (404, "model_not_found")
    assert len(stage.seen) == 1


async def test_a_stream_that_breaks_off_is_seen_to_be_broken(stage: Stage) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        assert request.transport is not None
        request.transport.abort()
        return response

    stage.handler = breaks
    stage.serves()
    with pytest.raises(aiohttp.ClientError):
        await stage.ask()


@pytest.mark.parametrize("begun", [False, True])
async def test_a_deployment_that_says_nothing_more_is_given_up(begun: bool) -> None:
    async def hangs(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        if begun:
            await response.prepare(request)
            await response.write(b"begun")
        await asyncio.sleep(SOON)
        return response

    async with stage_with(idle_seconds=0.3) as stage:
        stage.handler = hangs
        stage.serves()
        if begun:
            with pytest.raises(aiohttp.ClientError):
                await stage.ask()
        else:
            status, text, _ = await stage.ask()
            assert (status, code(text)) == (504, "gateway_timeout")
        assert stage.places.requests == 0


async def test_a_client_that_takes_nothing_of_its_answer_is_given_up() -> None:
    ended = asyncio.Event()

    async def floods(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(bytes(1 << 20))
        finally:
            ended.set()

    async with stage_with(idle_seconds=0.3) as stage:
        stage.handler = floods
        stage.serves()
        _, writer = await asyncio.open_connection("127.0.0.1", URL(stage.url).port)
        writer.write(f"GET {PATH} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
        async with asyncio.timeout(SOON):
            await ended.wait()
        writer.close()


async def test_one_that_is_awake_is_not_reached_by_way_of_the_activator(stage: Stage) -> None:
    stage.roster.tell("team/tiny", None)
    stage.serves()
    status, text, headers = await stage.ask()
    assert (status, code(text), headers["Retry-After"]) == (503, "awake", "10")
    assert stage.seen == []


async def test_what_comes_back_to_the_activator_does_not_go_round(stage: Stage) -> None:
    stage.serves()
    status, text, _ = await stage.ask(headers={**WITH_KEY, PASSED_ON: "1"})
    assert (status, code(text)) == (503, "not_ready")
    assert stage.seen == []


async def test_a_client_that_goes_gives_its_place_back(stage: Stage) -> None:
    held = asyncio.create_task(stage.ask(body=b"x" * 1000))
    await stage.until("the request to be held", lambda: stage.places.bytes == 1000)
    held.cancel()
    await stage.until("its place to be free", lambda: (stage.places.requests, stage.places.bytes) == (0, 0))


async def test_what_is_held_at_the_end_is_answered(stage: Stage) -> None:
    service = Service(stage.roster, Waker(FakeScale()), Forwarder(stage.session, lambda _: stage.upstream), Metrics())

    async def ask(port: int) -> int:
        asked = stage.session.post(f"http://127.0.0.1:{port}{PATH}", data=b"{}", headers=WITH_KEY)
        async with asyncio.timeout(SOON), asked as answer:
            return answer.status

    async with held_requests(("127.0.0.1", 0), service.handle, SOON) as port:
        held = asyncio.create_task(ask(port))
        await stage.until("the request to be held", lambda: service.places.requests == 1)
        asyncio.get_running_loop().call_later(0.2, stage.serves)
    assert await held == 200
