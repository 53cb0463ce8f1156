"""HTTP servers on loopback that stand for those that models are fetched from."""

import hashlib
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from moe_dev.pki import KeyPair


@lru_cache(maxsize=64)
def sha256_of(content: bytes) -> str:
    """Of a file: once, since it has megabytes and is asked for in many parts, by many tests."""
    return hashlib.sha256(content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Answers GET and HEAD alike by ``answer``, and logs nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass

    @property
    def first(self) -> int:
        """The byte that a request for a range, or for all, begins with."""
        return int(self._range[0])

    @property
    def end(self) -> int | None:
        """The byte after the last one of a request for a range that has an end."""
        return int(self._range[1]) + 1 if self._range[1] else None

    @property
    def _range(self) -> tuple[str, str]:
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return first, last


@contextmanager
def serving(handler: type[Handler], pair: KeyPair | None = None) -> Iterator[int]:
    """The port; ``pair``: of https."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair.certificate, pair.key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def spoilt(content: bytes) -> bytes:
    """As many bytes, of which one is another."""
    return bytes([content[0] ^ 1]) + content[1:]
