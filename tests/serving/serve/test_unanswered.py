"""What clients see of an api process that dies, over a real socket: ends in OpenAI's shape where the proxy has none."""

import asyncio
import time
from collections.abc import AsyncIterator

import httpx2
import pytest
import uvicorn
from openai import APIError, APIStatusError, OpenAI

from moe_contract.pods import LEAVING_FILE_VARIABLE
from moe_serving.serve import leaving, proxy
from moe_serving.serve.unanswered import SIGNATURE, Unanswered

EVENT = b'data: {"id":"1","object":"text_completion","created":1,"model":"m","choices":[]}\n\n'
JSON, EVENTS = b"application/json", b"text/event-stream; charset=utf-8"
OURS = (SIGNATURE.encode(), b"r")


async def dying(scope, receive, send) -> None:
    """As Serve's proxy does when a process dies: it returns, whatever was sent by then. The path says what that is."""
    kind = scope["path"].split("/")[1]
    if kind == "whole":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"{}"})
    elif kind in ("stream", "foreign", "ended"):
        signature = [] if kind == "foreign" else [OURS]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS), *signature]})
        await send({"type": "http.response.body", "body": EVENT, "more_body": kind != "ended"})
    elif kind == "long":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", EVENTS), OURS]})
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
        await asyncio.Event().wait()
    elif kind == "waits":
        await asyncio.Event().wait()
    elif kind == "raises":
        raise RuntimeError("a fault of the proxy's own")


@pytest.fixture
async def url() -> AsyncIterator[str]:
    app: object = dying
    for middleware in proxy.set_up():
        app = middleware.cls(app, *middleware.args, **middleware.kwargs)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
    host, port = server.servers[0].sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.should_exit = True
    await serving


@pytest.fixture(autouse=True)
def _protocols(monkeypatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))


@pytest.mark.parametrize("path", ["/v1/completions", "/a/b/v1/chat/completions", "/v1/models", "/v1/models/org/name"])
async def test_a_request_that_was_not_answered(url, path) -> None:
    async with httpx2.AsyncClient() as client:
        answer = await client.post(f"{url}/nothing{path}")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"] == {
        "message": (
            "the process that was answering this request has ended before the answer was complete; send it again"
        ),
        "type": "server_error",
        "param": None,
        "code": "api_lost",
    }


async def test_the_official_client_tells_it(url) -> None:
    def ask(kind: str, stream: bool) -> None:
        with OpenAI(base_url=f"{url}/{kind}/v1", api_key="k", max_retries=0) as client:
            answer = client.completions.create(model="m", prompt="x", stream=stream)
            assert stream
            list(answer)

    with pytest.raises(APIStatusError) as refused:
        await asyncio.to_thread(ask, "nothing", False)
    assert (refused.value.code, refused.value.type) == ("api_lost", "server_error")
    with pytest.raises(APIError) as cut:
        await asyncio.to_thread(ask, "stream", True)
    assert (cut.value.code, cut.value.type) == ("api_lost", "server_error")


async def test_a_stream_that_was_cut_ends_with_an_error_event(url) -> None:
    async with httpx2.AsyncClient() as client:
        text = (await client.get(f"{url}/stream/v1/completions")).text
    first, last = text.removesuffix("\n\n").split("\n\n")
    assert first == EVENT.decode().removesuffix("\n\n")
    assert last.startswith('data: {"error": {')
    assert "[DONE]" not in text


@pytest.fixture
def leaving_file(tmp_path, monkeypatch):
    monkeypatch.setenv(LEAVING_FILE_VARIABLE, str(tmp_path / "leaving"))
    monkeypatch.setattr(leaving, "PERIOD_SECONDS", 0.02)
    return tmp_path / "leaving"


async def test_what_outlasts_the_time_of_a_pod_that_was_asked_to_end_is_ended_in_order(url, leaving_file) -> None:
    async def ask(path: str) -> httpx2.Response:
        async with httpx2.AsyncClient(timeout=30) as client:
            return await client.get(url + path)

    stream, answer = asyncio.create_task(ask("/long/v1/completions")), asyncio.create_task(ask("/waits/v1/completions"))
    await asyncio.sleep(0.1)
    assert not stream.done()
    leaving_file.write_text("")  # being written
    await asyncio.sleep(0.1)
    leaving_file.write_text(f"{time.time() + 0.2:.2f}")
    first, last = (await stream).text.removesuffix("\n\n").split("\n\n")
    assert (first, last[:17]) == (EVENT.decode().removesuffix("\n\n"), 'data: {"error": {')
    assert ((await answer).status_code, (await answer).json()["error"]["code"]) == (503, "api_lost")
    # What is answered at once still is.
    whole = await ask("/whole/v1/completions")
    assert (whole.text, whole.headers["connection"]) == ("{}", "close")


async def test_a_connection_without_a_request_ends_when_the_pod_is_asked_to_end(url, leaving_file) -> None:
    host, port = url.removeprefix("http://").split(":")
    asked, silent = [await asyncio.open_connection(host, port) for _ in range(2)]
    asked[1].write(b"GET /whole/v1/completions HTTP/1.1\r\nhost: x\r\n\r\n")
    async with asyncio.timeout(30):
        assert (await asked[0].readuntil(b"{}")).startswith(b"HTTP/1.1 200")
    await asyncio.sleep(0.1)
    assert not asked[0].at_eof()
    leaving_file.write_text(f"{time.time() + 30:.2f}")
    for reader, writer in (asked, silent):
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_what_is_complete_or_not_ours_stays_as_it_is(url) -> None:
    async with httpx2.AsyncClient() as client:
        assert (await client.get(f"{url}/ended/v1/completions")).content == EVENT
        assert (await client.get(f"{url}/whole/v1/completions")).text == "{}"
        for path in ("/nothing/else", "/nothing/v1/other"):
            answer = await client.get(url + path)
            assert (answer.status_code, answer.text) == (500, "Internal Server Error")
        assert (await client.get(f"{url}/raises/v1/completions")).status_code == 500
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get(f"{url}/foreign/v1/completions")


async def test_what_is_no_http_goes_through() -> None:
    seen = []

    async def app(scope, receive, send) -> None:
        seen.append((scope, receive, send))

    await Unanswered(app)({"type": "websocket"}, "receive", "send")
    assert seen == [({"type": "websocket"}, "receive", "send")]
