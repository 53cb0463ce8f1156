"""Sends a request on to the deployment that was woken for it, and its answer back as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from moe_operator.activator.announcement import Announcement
from moe_operator.activator.answers import no_answer, not_in_time, silent
from moe_operator.api.names import API_PORT, api_service_name

PASSED_ON = "Moe-Activator"
"""On what the activator sends on: one that comes back to it went in a circle."""
AGAIN_SECONDS = 0.5
"""Between two tries: of a deployment that serves, a proxy may not know it yet, and its Service may still lead here."""
CONNECT_SECONDS = 2.0
"""For one connection, a packet that is lost included. Then it is tried again: of what is sent to a Service that is just
changing sides something may be lost."""
IDLE_SECONDS = 120.0
"""For which a deployment may say nothing, first or later, and a client take nothing of what it said."""
_PIECE = 64 << 10

_OF_THE_CONNECTION = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "expect",
    }
)
"""Headers that are of one connection and not of the message (RFC 9110, 7.6.1)."""
_MADE_BY_CLIENTS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


def service_url(deployment: Announcement) -> str:
    """Of its API, as pods reach it."""
    return f"http://{api_service_name(deployment.name)}.{deployment.namespace}.svc:{API_PORT}"


class Body:
    """Of a request; ``sent``: whether all of it has been."""

    def __init__(self, whole: bytes) -> None:
        self._whole = whole
        self.sent = not whole

    def __len__(self) -> int:
        return len(self._whole)

    async def pieces(self) -> AsyncIterator[bytes]:
        """Once more with each call."""
        self.sent = False
        for start in range(0, len(self._whole), _PIECE):
            yield self._whole[start : start + _PIECE]
        self.sent = True

    def drop(self) -> None:
        """It is not needed any more."""
        self._whole = b""


class Forwarder:
    """``url`` tells where a deployment is."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        url: Callable[[Announcement], str] = service_url,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._session = session
        self._url = url
        self._idle = idle_seconds

    async def send(
        self,
        request: web.Request,
        body: Body,
        deployment: Announcement,
        deadline: float,
        seconds: float,
        begun: Callable[[], None],
    ) -> web.StreamResponse:
        """The whole answer. Nothing is sent twice that may have been taken.

        Args:
            deadline: of the loop's clock, until which it is tried again; ``seconds``: how long that was in all.
            begun: called once there is an answer.

        Raises:
            Refusal: there is none.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._ask(request, body, deployment) as answer:
                    if not await _is_not_taken(answer) or loop.time() >= deadline:
                        begun()
                        return await _relay(request, answer, self._idle)
            except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
                if loop.time() >= deadline:
                    raise not_in_time(seconds) from error
            except aiohttp.SocketTimeoutError as error:
                raise silent(self._idle) from error
            except aiohttp.ClientError as error:
                raise no_answer(str(error) or type(error).__name__) from error
            await asyncio.sleep(AGAIN_SECONDS)

    def _ask(self, request: web.Request, body: Body, deployment: Announcement) -> aiohttp.client._RequestContextManager:
        headers = _passed_on(request.headers)
        headers.popall("Content-Length", None)
        if body:
            headers["Content-Length"] = str(len(body))
        headers[PASSED_ON] = "1"
        return self._session.request(
            request.method,
            URL(self._url(deployment) + request.rel_url.raw_path_qs, encoded=True),
            headers=headers,
            data=body.pieces() if body else None,
            skip_auto_headers=_MADE_BY_CLIENTS,
            allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=self._idle),
        )


async def _is_not_taken(answer: aiohttp.ClientResponse) -> bool:
    """Whether nobody has begun to work on it: the API is not ready, or a proxy of Serve does not know its route yet."""
    if answer.status == 404:
        return answer.content_type == "text/plain"
    return answer.status == 503


async def _relay(request: web.Request, answer: aiohttp.ClientResponse, idle_seconds: float) -> web.StreamResponse:
    """Each piece as soon as it is there. The next request is to go past: so the connection ends with the answer."""
    headers = _passed_on(answer.headers)
    length = headers.popall("Content-Length", [""])[0]
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=headers)
    response.force_close()
    response.content_length = int(length) if length.isdecimal() else None
    await response.prepare(request)
    try:
        async for piece in answer.content.iter_any():
            await asyncio.wait_for(response.write(piece), idle_seconds)
        await asyncio.wait_for(response.write_eof(), idle_seconds)
    except (aiohttp.ClientError, TimeoutError):
        # What has begun cannot be refused any more: that it is not whole shows by how it ends.
        if request.transport:
            request.transport.abort()
    return response


def _passed_on(headers: Mapping[str, str]) -> CIMultiDict[str]:
    """Those of the message."""
    found = CIMultiDict(headers)
    named = {name.strip().lower() for value in found.getall("Connection", []) for name in value.split(",")}
    for name in {*found}:
        if name.lower() in _OF_THE_CONNECTION | named:
            found.popall(name, None)
    return found
