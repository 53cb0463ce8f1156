"""Heads that do not end, over a real socket: what Serve's proxy does once ``bound_heads`` was called in it."""

import asyncio
import contextlib
import time

import pytest
import uvicorn
import uvicorn.config

from moe_serving.serve import proxy
from moe_serving.serve.proxy import BoundedHeads, bound_heads

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: api\r\n"


async def answer_slowly(scope, receive, send) -> None:
    """An answer of two parts with a second between them, when the path says so."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
    await send({"type": "http.response.body", "body": b"ab", "more_body": True})
    if scope["path"] == "/slow":
        await asyncio.sleep(1.0)
    await send({"type": "http.response.body", "body": b"cd"})


@pytest.fixture
async def address(monkeypatch):
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 0.3)
    config = uvicorn.Config(
        answer_slowly, host="127.0.0.1", port=0, log_level="error", lifespan="off", http=BoundedHeads
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    async with asyncio.timeout(30):
        while not server.started:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    await serving


async def exchange(address, *pieces: bytes, pause: float = 0.0, answers: int = 0) -> bytes:
    """All that comes back until the server closes, or ``answers`` answers have come."""
    reader, writer = await asyncio.open_connection(*address)
    got = b""

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    sending = asyncio.create_task(send())
    try:
        # What is sent after the server has closed resets the connection; the answer came before that.
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(30):
                while not answers or got.count(b"abcd") < answers:
                    part = await reader.read(65536)
                    got += part
                    if not part:
                        break
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending
        writer.close()
    return got


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"POST",),
        (HEAD,),
        (HEAD, *[b"x: y\r\n"] * 200),
        (b"\r\n",) * 200,
        (HEAD + b"Content-Length: 0\r\n\r\n", *[b"\r\n"] * 200),
        (HEAD + b"Content-Length: 0\r\n\r\n" + b"GET",),
    ],
    ids=["nothing", "a word", "half", "dripping", "empty lines", "empty lines later", "half of a second one"],
)
async def test_a_head_that_does_not_end_is_timed_out(address, pieces) -> None:
    began = time.monotonic()
    got = await exchange(address, *pieces, pause=0.05)
    assert time.monotonic() - began < 8, "it was dripped for ten seconds"
    assert got.count(b"HTTP/1.1 408 Request Timeout") == 1
    assert got.count(b"abcd") == (pieces[:1] != () and b"Length" in pieces[0])


async def test_a_head_that_grows_is_refused(address, monkeypatch) -> None:
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 30.0)
    got = await exchange(address, HEAD, *[b"x: " + b"y" * 4000 + b"\r\n"] * 10_000)
    assert got.startswith(b"HTTP/1.1 431 ")


async def test_what_is_in_order_is_not_disturbed(address) -> None:
    body = b"z" * (3 * proxy.HEAD_BYTES)
    whole = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    assert (await exchange(address, whole, whole, whole, answers=3)).count(b"HTTP/1.1 200") == 3
    # A body may take longer than a head, and so may an answer, whatever comes after the request.
    slow = whole.replace(b"/v1/completions", b"/slow")
    assert (await exchange(address, slow[:100], slow[100:300], slow[300:], pause=0.2, answers=1)).endswith(b"abcd")
    assert (await exchange(address, slow + b"\r\n", answers=1)).endswith(b"abcd")


def test_the_callback_chooses_it_for_the_process(monkeypatch) -> None:
    monkeypatch.setattr(uvicorn.config, "HTTP_PROTOCOLS", dict(uvicorn.config.HTTP_PROTOCOLS))
    bound_heads()
    config = uvicorn.Config(answer_slowly, lifespan="off")
    config.load()
    assert config.http_protocol_class is BoundedHeads


async def test_a_connection_ends_with_the_first_answer_that_begins_when_it_is_old(address, monkeypatch) -> None:
    monkeypatch.setattr(proxy, "CONNECTION_SECONDS", 0.2)
    monkeypatch.setattr(proxy, "HEAD_SECONDS", 30.0)
    get = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
    slow = get.replace(b"/ ", b"/slow ")
    got = await exchange(address, slow, get, pause=1.5)
    assert got.count(b"abcd") == 2
    first, second = got.split(b"abcd")[:2]
    assert b"connection: close" not in first.lower()
    assert b"connection: close" in second.lower()
