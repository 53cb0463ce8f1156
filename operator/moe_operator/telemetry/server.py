"""``/healthz`` and ``/metrics`` over HTTP.

Served from the event loop that does the work: a loop that is blocked does not answer the probe either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics

SHUTDOWN_SECONDS = 2.0


@asynccontextmanager
async def telemetry_server(host: str, port: int, metrics: Metrics, liveness: Liveness) -> AsyncIterator[int]:
    """Serve while the context lasts; yields the port, which the system chooses for 0.

    Raises:
        OSError: the port is taken.
    """

    async def healthz(request: web.Request) -> web.Response:
        problem = liveness.problem()
        return web.Response(status=503 if problem else 200, text=f"{problem or 'ok'}\n")

    async def exposition(request: web.Request) -> web.Response:
        return web.Response(body=metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes([web.get("/healthz", healthz), web.get("/metrics", exposition)])
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()
