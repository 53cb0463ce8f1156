"""Answers browsers that ask for another site's page (CORS): origins that the deployment allows, and no others."""

from __future__ import annotations

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from moe_serving.api.service import Service
from moe_serving.api.unknown import HEADER as IGNORED_HEADER


class AllowOrigins:
    """Middleware around ``/v1``; it stands before the keys, since a browser's first question has none.

    Without credentials in the browser's sense: a page shows its key itself, and no cookie is ever read.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service
        self._origins: tuple[str, ...] = ()
        self._for_origins = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removeprefix(scope.get("root_path", ""))
        config = self._service.config
        if scope["type"] != "http" or config is None or not path.startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        if config.allowed_origins != self._origins:
            self._origins, self._for_origins = config.allowed_origins, self._build(config.allowed_origins)
        await self._for_origins(scope, receive, send)

    def _build(self, origins: tuple[str, ...]) -> ASGIApp:
        if not origins:
            return self._app
        return CORSMiddleware(
            self._app,
            allow_origins=origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            allow_private_network=True,
            expose_headers=(IGNORED_HEADER, "Retry-After"),
        )
