"""Bodies that do not come, over a real socket: 408, and the connection is closed."""

import asyncio
import contextlib
import json

import pytest
import uvicorn

from moe_serving.api import access

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\n"


@pytest.fixture
async def address(api, eventually):
    """Host and port of the application behind a server of its own."""
    server = uvicorn.Server(uvicorn.Config(api.app, host="127.0.0.1", port=0, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started, "the server to listen")
    yield server.servers[0].sockets[0].getsockname()
    server.should_exit = True
    await serving


async def exchange(address, *pieces: bytes, pause: float = 0.0) -> tuple[int, dict]:
    """Status and JSON of the answer to ``pieces``; it ends when the server closes the connection."""
    reader, writer = await asyncio.open_connection(*address)

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    sending, answer = asyncio.create_task(send()), b""
    try:
        # What is sent after the server has closed resets the connection; the answer came before that.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            async with asyncio.timeout(30):
                while part := await reader.read(65536):
                    answer += part
    finally:
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


@pytest.mark.parametrize(
    "pieces",
    [
        (HEAD + b"Content-Length: 100\r\n\r\n",),
        (HEAD + b"Content-Length: 100\r\n\r\n", b'{"model":'),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b'5\r\n{"mod\r\n'),
    ],
    ids=["nothing", "half of it", "chunks without end"],
)
async def test_a_body_that_brings_nothing(address, monkeypatch, pieces) -> None:
    monkeypatch.setattr(access, "IDLE_S", 0.3)
    status, body = await exchange(address, *pieces)
    assert status == 408
    assert body["error"]["code"] == "request_timeout"
    assert "nothing of the body came for 0.3 s" in body["error"]["message"]


async def test_a_body_that_drips(address, monkeypatch) -> None:
    monkeypatch.setattr(access, "TOTAL_S", 0.5)
    drops = [b" "] * 200
    status, body = await exchange(address, HEAD + b"Content-Length: 1000\r\n\r\n", *drops, pause=0.05)
    assert (status, body["error"]["code"]) == (408, "request_timeout")
    assert "no end came in 0.5 s" in body["error"]["message"]


async def test_a_body_in_pieces_is_read(api, address) -> None:
    api.answer_with(" dog")
    text = json.dumps({"model": "model", "prompt": "the fox"}).encode()
    head = HEAD + f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n".encode()
    status, body = await exchange(address, head, text[:9], text[9:20], text[20:], pause=0.05)
    assert status == 200
    assert body["choices"][0]["text"] == " dog"
