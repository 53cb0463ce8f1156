"""A deployment asked for its load: over real HTTP, by servers that behave and by others."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from moe_operator.kubectl import asking
from moe_operator.kubectl.asking import ask
from moe_operator.kubectl.commands.deployments import top_of
from moe_operator.kubectl.exits import NotThereError, PluginError, RightError, UnreachableError, UsageError
from moe_operator.kubectl.loads import read_load
from moe_operator.kubectl.terminal import Terminal

LOAD = {"shards": "7500 2500", "bands": [{"layers": "0-5", "experts": ["3/15 6000"]}]}
Handle = Callable[[http.server.BaseHTTPRequestHandler], None]


@pytest.fixture
def serve() -> Iterator[Callable[[Handle], str]]:
    servers = []

    def start(handle: Handle) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                handle(self)

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}/tiny/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def answering(status: int, body: bytes, **headers: str) -> Handle:
    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return handle


def test_it_is_asked_with_the_key_at_its_base_url(serve: Callable[[Handle], str], tmp_path: Path) -> None:
    asked = []

    def handle(request: http.server.BaseHTTPRequestHandler) -> None:
        asked.append((request.path, request.headers["Authorization"]))
        answering(200, json.dumps(LOAD).encode())(request)

    key = tmp_path / "key"
    key.write_text("secret-of-32-characters\n")
    answer = top_of(serve(handle), key, Terminal())
    assert asked == [("/tiny/v1/load", "Bearer secret-of-32-characters")]
    busy = {"layer": 3, "expert": 15, "share": 0.6}
    bands = [{"layers": "0-5", "experts": [busy]}]
    assert answer.data["load"] == {"time": None, "shards": [0.75, 0.25], "bands": bands}
    assert any("layers 0-5: 3/15 60.0%" in line for line in answer.lines)


@pytest.mark.parametrize(
    ("status", "body", "kind", "words"),
    [
        (401, b'{"error": {"message": "no API key"}}', RightError, "no API key"),
        (404, b"", NotThereError, "tells no load"),
        (503, b'{"error": {"message": "loading\\u001b[1m"}}', UnreachableError, r"loading\\x1b\[1m"),
        (500, b"[" * 5000, UnreachableError, "HTTP 500"),
        (200, b"hello", PluginError, "no API of moe-operator"),
        (200, b"[" * 50000, PluginError, "no API of moe-operator"),
        (200, b'"' + b"x" * (1 << 17) + b'"', PluginError, "no API of moe-operator"),
    ],
)
def test_answers_that_tell_no_load(
    serve: Callable[[Handle], str], status: int, body: bytes, kind: type[PluginError], words: str
) -> None:
    with pytest.raises(kind, match=words):
        ask(serve(answering(status, body)), None)


def test_a_key_is_not_sent_elsewhere(serve: Callable[[Handle], str], tmp_path: Path) -> None:
    asked = []
    other = serve(lambda request: asked.append(request.path))
    key = tmp_path / "key"
    key.write_text("k")
    with pytest.raises(NotThereError, match="302"):
        ask(serve(answering(302, b"", Location=other)), key)
    assert asked == []


def test_nobody_answers(closed_address: str, monkeypatch: pytest.MonkeyPatch, serve: Callable[[Handle], str]) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        ask(closed_address, None)
    monkeypatch.setattr(asking, "ANSWER_SECONDS", 0.2)
    ended = threading.Event()
    with pytest.raises(UnreachableError, match="does not answer"):
        ask(serve(lambda request: ended.wait(30) and None), None)
    ended.set()


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://127.0.0.1:x/v1", "http://h/a b/v1", "http://u:p@h/v1", "x"])
def test_what_is_no_base_url(url: str) -> None:
    with pytest.raises(UsageError, match=r"must be as status\.url is"):
        ask(url, None)


def test_what_answers_speaks_no_http(serve: Callable[[Handle], str]) -> None:
    with pytest.raises(UnreachableError, match="does not answer"):
        ask(serve(lambda request: request.wfile.write(b"SSH-2.0-x\r\n") and None), None)


@pytest.mark.parametrize("content", ["", "two\nlines", "\x1b[1m", "é", "x" * 10000])
def test_a_file_without_a_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    with pytest.raises(UsageError, match="--api-key-file"):
        ask("http://127.0.0.1:1/v1", path)


def test_what_makes_no_sense_in_a_load_is_left_out() -> None:
    bands = [{"layers": "\x1b" * 99, "experts": ["1/2 3", "x", 7, "1/2 999999"]}, 7, {"experts": 3}]
    load = read_load({"shards": "5000 x -1 999999 2500", "bands": bands, "time": 7})
    assert load is not None
    assert load.shares == (0.5, 0.25)
    assert [band.experts for band in load.bands] == [((1, 2, 0.0003),)]
    assert read_load({"shards": 7}) is None
    assert read_load({"layer_rows": 0, "shards": "", "bands": []}) is None, "of no traffic"
