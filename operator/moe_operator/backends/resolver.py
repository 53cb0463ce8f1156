"""Names into addresses that the policy allows. Used by ``http``."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from moe_operator.backends.addresses import AddressPolicy
from moe_operator.endpoint import Endpoint

NAME_THREADS = 32
"""As many as workers: a name that nobody answers for holds one for as long as the system tries, up to a minute."""

connecting_to: ContextVar[Endpoint] = ContextVar("connecting_to")
"""What the request of this task was judged to go to: a resolver and a socket are asked for without it."""

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class CheckedResolver(AbstractResolver):
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
            self._policy.check_resolved(connecting_to.get(), ipaddress.ip_address(result["host"].partition("%")[0]))
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
