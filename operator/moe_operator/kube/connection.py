"""Requests to the API server with credentials that are renewed when they end.

Of the ``kubernetes`` package its transport and its authentication are used. Called by ``client`` and by the watch.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from kubernetes.aio.client import ApiClient

from moe_operator.api.names import FIELD_MANAGER
from moe_operator.kube.credentials import Access, Credentials
from moe_operator.kube.errors import CredentialsError, KubeUnreachableError


@dataclass(frozen=True, slots=True)
class Request:
    """One call; ``path`` is below the server's address."""

    method: str
    path: str
    headers: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    body: bytes


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server for whoever connects by other means, and the access that this is."""

    access: Access
    server: str
    ssl: ssl.SSLContext
    proxy: str | None
    headers: Mapping[str, str]


class Connection:
    """One API server; shared by all who call it in this loop."""

    def __init__(self, credentials: Credentials, clock: Callable[[], float] = time.monotonic) -> None:
        self._credentials = credentials
        self._clock = clock
        self._peer = ""
        self._client: ApiClient | None = None
        self._former: ApiClient | None = None
        self._refused_since: float | None = None

    async def open(self) -> None:
        """Load the credentials.

        Raises:
            CredentialsError: there are none.
        """
        await self._client_of(await self._credentials.current())

    async def close(self) -> None:
        """Close all connections."""
        for client in (self._client, self._former):
            if client:
                await client.close()  # type: ignore[no-untyped-call] # untyped in kubernetes
        self._client = self._former = None
        await self._credentials.close()

    def refused_seconds(self) -> float:
        """For how long the API server has answered 401 to everything; 0 while it does not."""
        return 0.0 if self._refused_since is None else self._clock() - self._refused_since

    async def send(self, request: Request, seconds: float, before_again: Callable[[], None]) -> Answer:
        """Within ``seconds``, once more with renewed credentials where the first are refused.

        Args:
            before_again: called before the second try; raises where it must not be any more.

        Raises:
            KubeUnreachableError: no answer.
            CredentialsError: there are no credentials any more.
        """
        what = f"{request.method} {request.path}"
        try:
            async with asyncio.timeout(seconds):
                answer = await self._send(request, before_again)
        except TimeoutError as error:
            raise KubeUnreachableError(f"{what}: no answer within {seconds:g} s") from error
        except aiohttp.ClientError as error:
            raise KubeUnreachableError(f"{what}: {error}") from error
        except CredentialsError:
            self._note(refused=True)
            raise
        self._note(refused=answer.status == 401)
        return answer

    async def endpoint(self, refused: Access | None) -> Endpoint:
        """For another client; ``refused``: what the server answered 401 to.

        Raises:
            CredentialsError: there are no credentials any more.
        """
        access = await (self._credentials.renewed(refused) if refused else self._credentials.current())
        client = await self._client_of(access)
        settings = access.configuration
        headers = {"Authorization": access.authorization} if access.authorization else {}
        return Endpoint(access, settings.host, client.rest_client.ssl_context, settings.proxy, headers)

    def _note(self, refused: bool) -> None:
        if not refused:
            self._refused_since = None
        elif self._refused_since is None:
            self._refused_since = self._clock()

    async def _send(self, request: Request, before_again: Callable[[], None]) -> Answer:
        access = await self._credentials.current()
        answer = await self._send_as(access, request)
        if answer.status != 401:
            return answer
        renewed = await self._credentials.renewed(access)
        if renewed is access:
            return answer
        before_again()
        return await self._send_as(renewed, request)

    async def _send_as(self, access: Access, request: Request) -> Answer:
        client = await self._client_of(access)
        headers = dict(request.headers)
        if access.authorization:
            headers["Authorization"] = access.authorization
        method, url, headers, payload, _ = await client.param_serialize(
            request.method,
            request.path,
            query_params=list(request.query.items()),
            header_params=headers,
            body=request.body,
            auth_settings=[],
        )
        # The caller bounds the time; without a bound here the library would set one of its own.
        unbounded = aiohttp.ClientTimeout(total=None)
        response = await client.call_api(method, url, headers, payload, _request_timeout=unbounded)
        content = await response.read()  # type: ignore[no-untyped-call] # untyped in kubernetes
        return Answer(response.status, content)

    async def _client_of(self, access: Access) -> ApiClient:
        """The connections for this access; those for the one before last are closed, whose requests are long over."""
        if self._client is not None and access.peer == self._peer:
            return self._client
        try:
            client = ApiClient(access.configuration)
        except OSError as error:
            raise CredentialsError(f"the certificates of the kubeconfig cannot be used: {error}") from error
        client.user_agent = FIELD_MANAGER
        abandoned, self._former = self._former, self._client
        self._client, self._peer = client, access.peer
        if abandoned:
            await abandoned.close()  # type: ignore[no-untyped-call] # untyped in kubernetes
        return client
