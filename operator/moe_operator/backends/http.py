"""HTTP as the operator speaks it with Ray: bounded in time and size, no redirects, no proxies, no cookies.

A request goes to exactly the address that was judged: the URL is read once, by ``moe_operator.endpoint``, and handed to
the HTTP library in a form that it leaves as it is; and the socket is judged once more before it connects. A redirect is
not followed because it could lead, with the token, to an address that nobody allowed. Called by ``serve_rest.client``
and ``directory``; a failure to get any answer becomes ``RayUnreachableError`` here, what an answer means is decided
there. No message repeats what a server said: it may be one that nobody meant.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from moe_operator.backends.addresses import AddressPolicy
from moe_operator.backends.errors import RayAddressRefusedError, RayUnreachableError
from moe_operator.endpoint import Endpoint, EndpointError, HttpUrl

CONNECT_SECONDS = 3.0
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Serve's state of some thousand applications is about 10 MB."""

NAME_THREADS = 32
"""As many as workers: a name that nobody answers for holds one for as long as the system tries, up to a minute."""

# Ray blanks the secrets of runtime environments in answers to browsers; a client that writes them back must not get
# such answers, so it names itself.
_USER_AGENT = "moe-operator"

_connecting_to: ContextVar[Endpoint] = ContextVar("connecting_to")
"""What the request of this task was judged to go to: a resolver and a socket are asked for without it."""

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status; ``peer`` is the address of the socket that it came from."""

    status: int
    body: bytes
    peer: tuple[Any, ...] | None = None

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace").strip()

    def json(self) -> Any:
        """The body as JSON; ValueError if it is none."""
        return json.loads(self.body)


class HttpClient:
    """One per process; use it as an async context manager."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit_per_host=8, resolver=_CheckedResolver(self._policy), socket_factory=self._socket
            ),
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": _USER_AGENT},
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self, method: str, base: str, path: str, *, seconds: float, token: str | None = None, json_body: Any = None
    ) -> Answer:
        """Send one request for ``path`` below the URL ``base`` and read its whole answer within ``seconds``.

        ``token`` goes as a bearer token.

        Raises:
            RayAddressRefusedError: the address is not allowed, or none that can be judged.
            RayUnreachableError: no answer; the message says why in words that do not change between attempts.
        """
        if self._session is None:
            raise RuntimeError("use HttpClient as an async context manager")
        try:
            url = HttpUrl.parse(base).below(path)
        except EndpointError as error:
            raise RayAddressRefusedError(str(error)) from None
        self._policy.check(url.endpoint)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = aiohttp.ClientTimeout(total=seconds, connect=CONNECT_SECONDS)
        _connecting_to.set(url.endpoint)
        try:
            async with self._session.request(
                method, _as_judged(url), json=json_body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                peer = answer.peer if isinstance(answer, _Response) else None
                return Answer(answer.status, await _read(answer.content), peer)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            raise _refused(error) or RayUnreachableError(
                f"{base.rstrip('/')}{path}: {_in_words(error, seconds)}"
            ) from error

    def _socket(self, found: aiohttp.AddrInfoType) -> socket.socket:
        """The socket to connect to ``found`` with: the last look at where it really goes, IP literals included."""
        family, kind, protocol, _, peer = found
        endpoint = _connecting_to.get()
        host, port = str(peer[0]), peer[1]
        if port != endpoint.port:
            raise RayAddressRefusedError(f"{endpoint.authority} was judged, and not port {port}: nothing was sent")
        self._policy.check_resolved(endpoint, ipaddress.ip_address(host.partition("%")[0]))
        return socket.socket(family, kind, protocol)


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


class _CheckedResolver(AbstractResolver):
    """Resolves as the system does and lets through only addresses that the policy allows.

    In threads of its own: dead names that users wrote must not hold up plans, nor the name of the API server.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._threads = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        results = await asyncio.get_running_loop().run_in_executor(self._threads, _resolve, host, port, family)
        for result in results:
            self._policy.check_resolved(_connecting_to.get(), ipaddress.ip_address(result["host"].partition("%")[0]))
        return results

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _resolve(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(hostname=host, host=_numeric(address), port=port, family=kind, proto=proto, flags=_NUMERIC)
        for kind, _, proto, _, address in found
    ]


def _numeric(address: tuple[Any, ...]) -> str:
    """With the zone of a link-local address, without which it cannot be reached."""
    return socket.getnameinfo(address, _NUMERIC_NAME)[0]


class _TooLongError(ValueError):
    """An answer has no end that is near enough."""


async def _read(content: aiohttp.StreamReader) -> bytes:
    chunks, size = [], 0
    async for chunk in content.iter_any():
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise _TooLongError(f"the answer is longer than {MAX_ANSWER_BYTES} bytes")
        chunks.append(chunk)
    return b"".join(chunks)


def _refused(error: BaseException) -> RayAddressRefusedError | None:
    """The policy's verdict, where a resolver's error was wrapped on its way through aiohttp."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, RayAddressRefusedError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _in_words(error: BaseException, seconds: float) -> str:
    """Without addresses, ports and times that differ from attempt to attempt, and without a word of the server's."""
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return f"no connection within {CONNECT_SECONDS:.0f} s"
    if isinstance(error, TimeoutError | asyncio.TimeoutError):
        return f"no answer within {seconds:.0f} s"
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "the host name cannot be resolved"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        reason = getattr(error.certificate_error, "verify_message", "")  # OpenSSL's own words
        return f"its certificate is not trusted: {reason or 'it does not fit the host'}"
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return "it does not speak TLS; is the URL's scheme http instead of https?"
    if isinstance(error, ConnectionRefusedError) or isinstance(
        getattr(error, "os_error", None), ConnectionRefusedError
    ):
        return "connection refused"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError | aiohttp.ClientPayloadError):
        return "it closed the connection before it had answered"
    if isinstance(error, aiohttp.ClientResponseError):
        return "it does not speak HTTP"
    if isinstance(error, _TooLongError):
        return str(error)
    return f"no answer that can be used ({type(error).__name__})"  # its words may be the server's
