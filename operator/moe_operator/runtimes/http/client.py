"""HTTP as the operator speaks it with Ray: bounded in time and size, no redirects, no proxies, no cookies.

A request goes to exactly the address that was judged: the URL is read once, by ``moe_operator.endpoint``, and handed to
the HTTP library in a form that it leaves as it is; and the socket is judged once more before it connects. A redirect is
not followed because it could lead, with the token, to an address that nobody allowed. Called by ``serve_rest.client``
and ``directory``; a failure to get any answer becomes ``RayUnreachableError`` here, what an answer means is decided
there. No message repeats what a server said: it may be one that nobody meant.

What is small is read here and now. For a large answer first room is taken in a budget that all addresses share, one
answer of a tenant at a time; then it is read out in the worker process, within bounds of time and memory.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from moe_operator.endpoint import EndpointError, HttpUrl
from moe_operator.offload.errors import JobDelayedError, JobTooHeavyError
from moe_operator.offload.process import Bounds, WorkerProcess
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import (
    CrowdedError,
    RayAddressRefusedError,
    RayAnswerRefusedError,
    RayUnreachableError,
)
from moe_operator.runtimes.http.addresses import AddressPolicy
from moe_operator.runtimes.http.budget import ByteBudget
from moe_operator.runtimes.http.no_answer import in_words, refusal_in
from moe_operator.runtimes.http.resolver import CheckedResolver, connecting_to
from moe_operator.tenant import tenant

CONNECT_SECONDS = 3.0
SMALL_BYTES = 256 * 1024
"""An answer of this size is read in milliseconds, whatever is in it, and waits for nobody."""
TOLD_BYTES = 64 * 1024
"""Of an answer that is no success, and of one to a write: what is kept."""
LARGE_BYTES = 16 * 1024 * 1024
"""Of all large bodies, in both directions, that are held at a time."""
LARGE_WAIT_SECONDS = 10.0
"""For which a large body waits for room."""
READING = Bounds(processor_seconds=5.0, seconds=15.0)
"""Of reading one large answer out: Serve's state of 10 MB takes half a second. With the wait it fits into a pass."""

# Ray blanks the secrets of runtime environments in answers to browsers; a client that writes them back must not get
# such answers, so it names itself.
_USER_AGENT = "moe-operator"


_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
_CHUNK = 64 * 1024
ASIDE_CURE = "check spec.runtime and what runs there; it is left alone for a while, then asked again"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status; ``peer`` is the address of the socket that it came from."""

    status: int
    body: bytearray
    peer: tuple[Any, ...] | None = None

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace").strip()


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked; ``shown`` is its URL as the user wrote it, ``most`` the bytes that the answer may have. Of a large
    body ``room`` is waited for ``patience`` seconds at most."""

    method: str
    url: HttpUrl
    shown: str
    seconds: float
    most: int
    room: ByteBudget
    patience: float
    headers: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.shown

    @property
    def owner(self) -> str:
        """Whose answer it is: one party's are those of one host and port."""
        return str(self.url.endpoint)


class HttpClient:
    """One per process; use it as an async context manager. Without a ``worker`` all answers are read out here."""

    def __init__(self, policy: AddressPolicy, worker: WorkerProcess | None = None) -> None:
        self._policy = policy
        self._worker = worker
        self._large = ByteBudget(LARGE_BYTES)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connecting = aiohttp.TraceConfig()
        connecting.on_connection_create_start.append(_check_credential)
        self._session = aiohttp.ClientSession(
            trace_configs=[connecting],
            connector=aiohttp.TCPConnector(
                limit_per_host=8, resolver=CheckedResolver(self._policy), socket_factory=self._socket
            ),
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            # Of a compressed answer a few bytes may become gigabytes.
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"},
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        base: str,
        path: str,
        *,
        seconds: float,
        credential: Credential | None = None,
        body: bytes | bytearray | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """Send one request for ``path`` below the URL ``base`` and read its answer within ``seconds``.

        The token of ``credential`` goes as a bearer token, and its check is asked before a connection is made for it.
        ``body`` is JSON, unless ``headers`` say otherwise. Of the answer the first ``TOLD_BYTES`` are kept.

        Raises:
            RayAddressRefusedError: the address is not allowed, or none that can be judged.
            RayUnreachableError: no answer; the message says why in words that do not change between attempts.
            OperatorError: what the check of ``credential`` raises.
        """
        request = self._request(method, base, path, seconds, TOLD_BYTES)
        if body is not None:
            request = replace(request, headers={"Content-Type": "application/json", **headers})
        async with self._answering(request, credential, body) as answer:
            return answer

    async def read(
        self,
        base: str,
        path: str,
        job: Callable[[bytearray], T],
        *,
        most: int,
        seconds: float,
        credential: Credential | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> tuple[Answer, T | None]:
        """GET as ``call`` does, with ``headers`` too; the body of a success, of at most ``most`` bytes, is read
        out by ``job``, which is one of ``offload.jobs``.

        Raises:
            RayAddressRefusedError, RayUnreachableError: as from ``call``.
            RayAnswerRefusedError: it is larger, or takes more to read, than it may.
            OffloadError: the worker process ended under it.
            Exception: what ``job`` raises.
        """
        request = replace(self._request("GET", base, path, seconds, most), headers=headers)
        async with self._answering(request, credential, None) as answer:
            if answer.status != 200:
                return answer, None
            return answer, await self._read_out(request, job, answer.body)

    @asynccontextmanager
    async def holding(
        self,
        base: str,
        path: str,
        *,
        most: int,
        seconds: float,
        room: ByteBudget,
        patience: float,
        credential: Credential,
    ) -> AsyncIterator[Answer]:
        """GET as ``call`` does; all of the body of a success, of at most ``most`` bytes, is held while inside. A large
        one takes its part of ``room`` for as long, and waits for that ``patience`` seconds at most.

        Raises:
            RayAddressRefusedError, RayUnreachableError, OperatorError: as from ``call``.
            RayAnswerRefusedError: it is larger than it may be.
        """
        request = replace(self._request("GET", base, path, seconds, most), room=room, patience=patience)
        async with self._answering(request, credential, None) as answer:
            yield answer

    async def _read_out(self, request: _Request, job: Callable[[bytearray], T], body: bytearray) -> T:
        if self._worker is None or len(body) <= SMALL_BYTES:
            return job(body)
        try:
            return await self._worker.run(request.owner, READING, job, body)
        except JobDelayedError as error:
            raise _crowded(request) from error
        except JobTooHeavyError as error:
            raise RayAnswerRefusedError(f"reading what {request} answers {error}: {ASIDE_CURE}") from error

    def _request(self, method: str, base: str, path: str, seconds: float, most: int) -> _Request:
        try:
            url = HttpUrl.parse(base).below(path)
        except EndpointError as error:
            raise RayAddressRefusedError(str(error)) from None
        self._policy.check(url.endpoint)
        return _Request(method, url, f"{base.rstrip('/')}{path}", seconds, most, self._large, LARGE_WAIT_SECONDS)

    @asynccontextmanager
    async def _answering(
        self, request: _Request, credential: Credential | None, body: bytes | bytearray | None
    ) -> AsyncIterator[Answer]:
        """Send a request and read its answer; the room that they take in the budget is given back at the end."""
        if self._session is None:
            raise RuntimeError("use HttpClient as an async context manager")
        headers = dict(request.headers)
        if credential:
            headers["Authorization"] = f"Bearer {credential.token}"
        async with AsyncExitStack() as room:
            if body is not None and len(body) > SMALL_BYTES:
                await self._take_room(room, request, len(body))
            connecting_to.set(request.url.endpoint)
            sending = self._session.request(
                request.method,
                _as_judged(request.url),
                data=body,
                headers=headers,
                timeout=_TIMEOUT,
                allow_redirects=False,
                trace_request_ctx=credential,
            )
            try:
                async with asyncio.timeout(request.seconds) as limit, sending as response:
                    peer = response.peer if isinstance(response, _Response) else None
                    answer = Answer(response.status, await self._body(response, request, room, limit), peer)
            except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
                raise refusal_in(error) or RayUnreachableError(
                    f"{request}: {in_words(error, request.seconds, CONNECT_SECONDS)}"
                ) from error
            yield answer

    async def _body(
        self, response: aiohttp.ClientResponse, request: _Request, room: AsyncExitStack, limit: asyncio.Timeout
    ) -> bytearray:
        """Of a success all, if it is not more than it may; of anything else the beginning."""
        most, content, body = request.most, response.content, bytearray()
        if response.status != 200 or most <= TOLD_BYTES:
            await _read_on(body, content, TOLD_BYTES)
            return body
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise RayAnswerRefusedError(
                f"{request} compresses its answers, though asked not to: is a proxy before it? {ASIDE_CURE}"
            )
        declared = response.content_length
        if declared is not None and declared > most:
            raise _too_large(request)
        if not await _read_on(body, content, SMALL_BYTES):
            await self._wait_for_room(room, request, declared or most, limit)
            await _read_on(body, content, most + 1)
            if len(body) > most:
                raise _too_large(request)
        return body

    async def _wait_for_room(self, room: AsyncExitStack, request: _Request, size: int, limit: asyncio.Timeout) -> None:
        """Take room for the rest of an answer; the time for which others keep it is not the server's."""
        now = asyncio.get_running_loop().time
        left = (limit.when() or now()) - now()
        limit.reschedule(now() + left + request.patience + 1.0)
        await self._take_room(room, request, size)
        limit.reschedule(now() + left)

    async def _take_room(self, room: AsyncExitStack, request: _Request, size: int) -> None:
        try:
            async with asyncio.timeout(request.patience):
                await room.enter_async_context(request.room.taking(tenant() or request.owner, size))
        except TimeoutError:
            raise _crowded(request) from None

    def _socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        """The socket to connect to ``found`` with: the last look at where it really goes, IP literals included."""
        family, kind, protocol, _, peer = found
        endpoint = connecting_to.get()
        host, port = str(peer[0]), peer[1]
        if port != endpoint.port:
            raise RayAddressRefusedError(f"{endpoint.authority} was judged, and not port {port}: nothing was sent")
        self._policy.check_resolved(endpoint, ipaddress.ip_address(host.partition("%")[0]))
        return socket.socket(family, kind, protocol)


async def _check_credential(session: aiohttp.ClientSession, context: Any, event: object) -> None:
    """Asked by the HTTP library before it makes a connection for a request."""
    credential: Credential | None = context.trace_request_ctx
    if credential is not None:
        await credential.check()


class _Response(aiohttp.ClientResponse):
    """Keeps whom it came from, which is forgotten when the connection is given back."""

    peer: tuple[Any, ...] | None = None

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        """As the library's."""
        if connection.transport is not None:
            self.peer = connection.transport.get_extra_info("peername")
        return await super().start(connection)


def _as_judged(url: HttpUrl) -> URL:
    """For the HTTP library, encoded already, so that it makes no other host of what was judged."""
    exact = URL(str(url), encoded=True)
    if (exact.scheme, exact.raw_host, exact.port) != (url.endpoint.scheme, url.endpoint.host, url.endpoint.port):
        raise RayAddressRefusedError(f"{url} was judged, and the HTTP library reads {exact.raw_host}: nothing was sent")
    return exact


async def _read_on(body: bytearray, content: aiohttp.StreamReader, most: int) -> bool:
    """Go on reading until there are ``most`` bytes; returns whether that was all. (A large body is not copied.)"""
    while len(body) < most and (chunk := await content.read(min(most - len(body), _CHUNK))):
        body += chunk
    return content.at_eof()


def _crowded(request: _Request) -> CrowdedError:
    return CrowdedError(f"{request}: other large answers are being read; it is asked again")


def _too_large(request: _Request) -> RayAnswerRefusedError:
    return RayAnswerRefusedError(
        f"{request} answers more than {request.most / 2**20:g} MiB, more than this release can work with: {ASIDE_CURE}"
    )
