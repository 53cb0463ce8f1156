"""The HTTP application: routes, health, metrics, the operator's report, and errors in OpenAI's shape."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_contract.report import (
    CONTRACT_HEADER,
    INTERNAL_REPORT_PATH,
    INTERNAL_STATISTICS_PATH,
    NAME_OF_CLUSTER,
    STATISTICS_OF_HEADER,
)
from moe_serving.api.access import Access, refusal
from moe_serving.api.cors import AllowOrigins
from moe_serving.api.errors import ApiError, InvalidRequestError, MethodError, NotFoundError
from moe_serving.api.metrics import ServingMetrics
from moe_serving.api.routes import build_router
from moe_serving.api.service import Service
from moe_serving.api.validation import invalid_body, unreadable_body

logger = logging.getLogger(__name__)

CLIENT_GONE = "499"
"""Code under which a request is counted whose client did not wait for the answer."""


def build_app(service: Service) -> ASGIApp:
    """The application of one api process; ``service`` may change its config while it runs."""
    # A redirect would name the address that this process knows, not the one that a client behind a proxy does.
    app = FastAPI(title="moe-operator", openapi_url=None, redirect_slashes=False)
    router = build_router(service)
    app.include_router(router)
    _add_own_routes(app, service)
    _add_error_handlers(app)
    app.add_middleware(Access, service=service)
    app.add_middleware(AllowOrigins, service=service)
    app.add_middleware(_CountRequests, metrics=service.metrics, routes=[*router.routes, *app.routes])
    return app


def _add_own_routes(app: FastAPI, service: Service) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        await service.catch_up()
        problem = service.problem
        return PlainTextResponse(problem or "ok", status_code=503 if problem else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(await service.exposition(), media_type=CONTENT_TYPE_LATEST)

    @app.get(INTERNAL_REPORT_PATH, include_in_schema=False)
    async def report(request: Request) -> Response:
        _check_open(service)
        report = (await service.watch.ask()).report
        told = report.told(_contract_of(request))
        return Response(json.dumps(told, separators=(",", ":")), media_type="application/json")

    @app.get(INTERNAL_STATISTICS_PATH, include_in_schema=False)
    async def statistics() -> Response:
        _check_open(service)
        packed = await service.fetch_statistics()
        if packed is None:
            return Response(status_code=204)
        return Response(packed, media_type="application/octet-stream")

    @app.put(INTERNAL_STATISTICS_PATH, include_in_schema=False)
    async def adopt_statistics(request: Request) -> Response:
        _check_open(service)
        refused = await service.adopt_statistics(await request.body(), _former_cluster(request))
        if refused is not None:
            raise InvalidRequestError(refused)
        return Response(status_code=204)


def _contract_of(request: Request) -> int:
    """Of who asks for a report; who does not say it has the first."""
    said = request.headers.get(CONTRACT_HEADER, "")
    return int(said) if re.fullmatch("[0-9]{1,9}", said) else 0


def _former_cluster(request: Request) -> str:
    """Whose statistics are handed over; empty where nothing is said of that."""
    said = request.headers.get(STATISTICS_OF_HEADER, "")
    if said and not re.fullmatch(NAME_OF_CLUSTER, said):
        raise InvalidRequestError(
            f"{STATISTICS_OF_HEADER} is {said[:64]!r}: write the name of a Ray cluster, or nothing"
        )
    return said


def _check_open(service: Service) -> None:
    """Raise HTTPException where there is no key by which ``/internal`` is open."""
    if service.settings.internal_key_sha256 is None:
        raise HTTPException(404)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return refusal(error)

    @app.exception_handler(RequestValidationError)
    async def validation_error(request: Request, error: RequestValidationError) -> Response:
        return refusal(invalid_body(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        # Not request.url, which takes what follows two slashes for a host.
        path = request.scope["path"]
        match error.status_code:
            case 400:
                return refusal(unreadable_body())
            case 404:
                return refusal(NotFoundError(f"there is no {request.method} {path} here; the API is below /v1"))
            case 405:
                return refusal(MethodError(request.method, path, error.headers or {}))
        wrong = InvalidRequestError(f"{request.method} {path}: {error.detail}")
        wrong.status = error.status_code
        wrong.headers = dict(error.headers or {})
        return refusal(wrong)

    @app.exception_handler(Exception)
    async def unexpected_error(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return refusal(ApiError("an unexpected error in the server; its log says more"))


class _CountRequests:
    """Middleware: counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: ServingMetrics, routes: Sequence[BaseRoute]) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = "500"
        code = CLIENT_GONE

        async def send_and_see(message: Message) -> None:
            nonlocal status, code
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                code = status

        try:
            await self._app(scope, receive, send_and_see)
        except Exception:
            code = "500"
            raise
        finally:
            self._metrics.requests.labels(self._route_of(scope), code).inc()

    def _route_of(self, scope: Scope) -> str:
        """Its path, also of a request that was refused before its route was looked for."""
        for route in self._routes:
            if isinstance(route, Route) and route.matches(scope)[0] is not Match.NONE:
                return route.path
        return "unmatched"
