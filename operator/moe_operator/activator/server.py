"""The port to which requests come that are held.

aiohttp bounds neither the connections nor the time until a first request comes: both are bounded here. Each connection
brings one request: whatever is answered ends it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from aiohttp import web

MOST_CONNECTIONS = 256
MOST_HEADERS = 64
MOST_HEADER_BYTES = 4096
"""Of one header, and of the request line. A head that is not whole costs about twice what has come of it: 0.5 MB here,
so that with all connections' the bodies that are held still fit what the chart gives the pod."""
READ_BYTES = 64 << 10
"""Of a body that nobody reads (yet)."""
KEEP_ALIVE_SECONDS = 10.0
FIRST_REQUEST_SECONDS = 10.0
"""For which a connection may bring no whole request line and headers."""
SWEEP_SECONDS = 5.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Refuser(asyncio.Protocol):
    """Of a connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@dataclass(slots=True)
class _Connections:
    """Those that have brought no request yet, each since when."""

    server: web.Server
    silent: dict[web.RequestHandler, float] = field(default_factory=dict)

    def open(self) -> asyncio.BaseProtocol:
        if len(self.server.connections) >= MOST_CONNECTIONS:
            return _Refuser()
        connection = self.server()
        self.silent[connection] = time.monotonic()
        return connection

    async def sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            late = time.monotonic() - FIRST_REQUEST_SECONDS
            for connection in [each for each, since in self.silent.items() if since < late]:
                del self.silent[connection]
                connection.force_close()


@asynccontextmanager
async def held_requests(address: tuple[str, int], handler: Handler, drain_seconds: float) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port, which the system chooses for 0. What is under way at its end has
    ``drain_seconds`` more.

    Raises:
        OSError: the port is taken.
    """

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        connections.silent.pop(request.protocol, None)
        return await handler(request)  # type: ignore[arg-type] # a Request, but for what routes need

    server = web.Server(
        handle,
        handler_cancellation=True,
        access_log=None,
        keepalive_timeout=KEEP_ALIVE_SECONDS,
        max_line_size=MOST_HEADER_BYTES,
        max_field_size=MOST_HEADER_BYTES,
        max_headers=MOST_HEADERS,
        read_bufsize=READ_BYTES,
        auto_decompress=False,  # a body is sent on as it came
    )
    connections = _Connections(server)
    listening = await asyncio.get_running_loop().create_server(connections.open, *address)
    sweeping = asyncio.create_task(connections.sweep())
    try:
        yield listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        server.pre_shutdown()
        await server.shutdown(drain_seconds)
        sweeping.cancel()
        with suppress(asyncio.CancelledError):
            await sweeping
