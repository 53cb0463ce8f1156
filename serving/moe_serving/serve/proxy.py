"""What Serve's HTTP proxy lacks: bounds of the head of a request and of the life of a connection, bodies for the api
that answers in the end (``resent``), and ends in OpenAI's shape (``unanswered``).

``set_up`` is what ``RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`` names in the environment of Ray's processes: the proxy
calls it before it listens. No Ray is imported here, and of ours only what is as light: it runs in Serve's process, not
in one of ours.
"""

from __future__ import annotations

import asyncio

import uvicorn.config
from starlette.middleware import Middleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from moe_serving.serve import leaving
from moe_serving.serve.resent import Resent
from moe_serving.serve.unanswered import Unanswered

HEAD_SECONDS = 30.0
"""From the connection, or from the first byte of a later request, to the end of its head."""
HEAD_BYTES = 64 << 10
"""Of request line and headers; what h11, uvicorn's other parser, allows."""

CONNECTION_SECONDS = 10.0
"""A connection that is older ends with the next answer that begins on it. A client that keeps its connections would
never ask a pod that came later, and would still ask a Ray cluster that another one has replaced when that goes. In a
pod that was asked to end each connection does, and at once where no request is under way on it."""


def set_up() -> list[Middleware]:
    """Called once in the proxy's process.

    Returns:
        ASGI middlewares to be added, each around those before it.
    """
    bound_heads()
    return [Middleware(Resent), Middleware(Unanswered)]


def bound_heads() -> None:
    """Have each connection of this process' HTTP server end whose head takes too long or gets too large."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{__name__}:BoundedHeads"


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, one per connection, which ends soon after ``CONNECTION_SECONDS``. A head that is too late is
    answered 408, one that is too large 431.

    Of a head that comes in pieces; one read may bring more than ``HEAD_BYTES`` at once, up to 256 KiB.
    """

    _between = False
    """Whether the last request has come to its end, and nothing more."""
    _head_bytes: int | None = None
    """Of the head that is being read; None while none is."""
    _too_late: asyncio.TimerHandle | None = None
    _next_look: asyncio.TimerHandle | None = None
    """For whether this pod was asked to end."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._since = self.loop.time()
        self._expect_head()
        if leaving.may_come():
            self._next_look = self.loop.call_later(leaving.PERIOD_SECONDS, self._end_if_leaving)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_timer()
        if self._next_look is not None:
            self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._between:  # it may be an empty line, with which no message begins, and so on for ever
            self._expect_head()
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        if self._head_bytes is None:  # the request before ended in the same read
            self._expect_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._forget_timer()
        super().on_headers_complete()
        # A request that would go on with another protocol has none.
        cycle: RequestResponseCycle | None = getattr(self, "cycle", None)
        is_old = self.loop.time() - self._since > CONNECTION_SECONDS
        if cycle is not None and (is_old or leaving.ends_at() is not None):
            cycle.keep_alive = False

    def on_message_complete(self) -> None:
        self._between = True
        super().on_message_complete()

    def _expect_head(self) -> None:
        self._between, self._head_bytes = False, 0
        self._forget_timer()
        self._too_late = self.loop.call_later(HEAD_SECONDS, self._end_if_late)

    def _is_answering(self) -> bool:
        # There is none before the first request, whatever uvicorn's annotation says.
        last: RequestResponseCycle | None = getattr(self, "cycle", None)
        return last is not None and not last.response_complete

    def _end_if_leaving(self) -> None:
        is_idle = not self._is_answering() and (self._between or self._head_bytes == 0)
        if is_idle and leaving.ends_at() is not None:
            self.transport.close()  # before its client asks here again, and is told that there was no time
        else:
            self._next_look = self.loop.call_later(leaving.PERIOD_SECONDS, self._end_if_leaving)

    def _end_if_late(self) -> None:
        if self._is_answering():
            self._too_late = self.loop.call_later(HEAD_SECONDS, self._end_if_late)
        else:
            self._refuse(b"408 Request Timeout")

    def _refuse(self, status: bytes) -> None:
        self._forget_timer()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self.transport.close()

    def _forget_timer(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None
