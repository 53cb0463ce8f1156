"""What stands before all routes: the API key, and the bound on a body. Nothing of a body is read before the key."""

from __future__ import annotations

import asyncio

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_contract.report import INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH
from moe_serving.api.errors import ApiError, RequestTimeoutError, RequestTooLargeError
from moe_serving.api.keys import check_key
from moe_serving.api.service import Service

MAX_BODY_BYTES = 16 << 20
"""A million token ids are 7 MB of JSON, as many words of text are less."""

IDLE_S = 30.0
"""A body that brings nothing for so long is given up: whoever sends it has gone, or holds the connection on purpose."""
TOTAL_S = 300.0
"""For a whole body, however steadily it drips: 16 MiB at 56 KB a second."""

_OPEN = ("/healthz", "/metrics")
"""For whoever probes and scrapes."""
_WITHOUT_BODY = ("GET", "HEAD", "OPTIONS")
"""Methods whose requests are answered without a look at their body."""
_INTERNAL = (INTERNAL_REPORT_PATH, INTERNAL_STATISTICS_PATH)
"""For the operator, by a key of its own."""
_CLIENT = "moe.client"


class Access:
    """Middleware. A path that is not said to be open needs an API key, whether there is such a route or not."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            scope[_CLIENT] = self._check(scope)
            body = await _read(scope, receive) if _may_have_body(scope) else b""
        except ApiError as error:
            await refusal(error)(scope, receive, send)
        except ClientDisconnect:
            return
        else:
            await self._app(scope, _again(body, receive), send)

    def _check(self, scope: Scope) -> str:
        """Who asks, as ``client_of`` tells it.

        Raises:
            NotReadyError: which keys there are is not known yet.
            AuthenticationError: see ``check_key``.
        """
        path = _path(scope)
        if path in _OPEN:
            return ""
        config = self._service.settings
        internal = [config.internal_key_sha256] if config.internal_key_sha256 else []
        keys = internal if path in _INTERNAL else config.api_key_sha256
        return check_key(Request(scope), keys) if keys else ""


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _may_have_body(scope: Scope) -> bool:
    """Whether a body is read at all: nobody keeps one for a route that wants none."""
    return scope["method"] not in _WITHOUT_BODY and _path(scope) not in _OPEN


def client_of(request: Request) -> str:
    """Whose key a request came with; empty where none is asked for."""
    client: str = request.scope[_CLIENT]
    return client


def refusal(error: ApiError) -> Response:
    """The answer to a request that failed, in OpenAI's shape."""
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers)


async def _read(scope: Scope, receive: Receive) -> bytes:
    """The whole body.

    Raises:
        RequestTooLargeError: it is larger than ``MAX_BODY_BYTES``, or says so.
        RequestTimeoutError: nothing of it came for ``IDLE_S``, or not all within ``TOTAL_S``.
        ClientDisconnect: the client went away before its end.
    """
    told = Request(scope).headers.get("content-length", "")
    if told.isdecimal() and int(told) > MAX_BODY_BYTES:
        raise RequestTooLargeError(MAX_BODY_BYTES)
    body = bytearray()
    end = asyncio.get_running_loop().time() + TOTAL_S
    async for part in Request(scope, _within(end, receive)).stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLargeError(MAX_BODY_BYTES)
    return bytes(body)


def _within(end: float, receive: Receive) -> Receive:
    """``receive`` that raises RequestTimeoutError when nothing comes for ``IDLE_S``, or before ``end``."""

    async def receive_in_time() -> Message:
        left = end - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(IDLE_S, left)):
                return await receive()
        except TimeoutError:
            missed = f"nothing of the body came for {IDLE_S:g} s" if left > IDLE_S else f"no end came in {TOTAL_S:g} s"
            raise RequestTimeoutError(f"the body is not complete, and {missed}; send the request again") from None

    return receive_in_time


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` from the beginning: the body, then what else comes."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again
