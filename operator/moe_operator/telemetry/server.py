"""Probes and ``/metrics`` over HTTP, of the operator and of the activator.

Served from the event loop that does the work: a loop that is blocked does not answer the probe either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

SHUTDOWN_SECONDS = 2.0

Probe = Callable[[], str | None]
"""What is wrong; None if nothing is."""


@asynccontextmanager
async def telemetry_server(
    address: tuple[str, int], exposition: Callable[[], bytes], probes: Mapping[str, Probe]
) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port, which the system chooses for 0.

    Args:
        exposition: of the metrics, in Prometheus' text format.
        probes: by path.

    Raises:
        OSError: the port is taken.
    """

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get(path, _answering(probe)) for path, probe in probes.items()])
    application.add_routes([web.get("/metrics", metrics)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, *address)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _answering(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        problem = probe()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    return handle
