"""Names into addresses that the policy allows. Used by ``http``."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from moe_operator.endpoint import Endpoint
from moe_operator.recent import Recent
from moe_operator.runtimes.http.addresses import AddressPolicy

NAME_THREADS = 32
"""As many as workers: a name that nobody answers for holds one for as long as the system tries, up to a minute."""
SLOW_THREADS = 8
"""For names that took long the last time, however many: they wait for each other, and nobody else for them."""
SLOW_SECONDS = 3.0

connecting_to: ContextVar[Endpoint] = ContextVar("connecting_to")
"""What the request of this task was judged to go to: a resolver and a socket are asked for without it."""

_NUMERIC = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
_NUMERIC_NAME = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV


class CheckedResolver(AbstractResolver):
    """Resolves as the system does and lets through only addresses that the policy allows.

    In threads of its own: dead names that users wrote must not hold up passes, nor the name of the API server; nor,
    once they are known to be dead, the names of others.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._threads = ThreadPoolExecutor(NAME_THREADS, thread_name_prefix="names")
        self._slow_threads = ThreadPoolExecutor(SLOW_THREADS, thread_name_prefix="slow-names")
        self._slow: Recent[str, bool] = Recent()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        threads = self._slow_threads if self._slow.get(host) else self._threads
        seconds, results = await asyncio.get_running_loop().run_in_executor(threads, _timed, host, port, family)
        self._slow.put(host, seconds >= SLOW_SECONDS)
        if isinstance(results, OSError):
            raise results
        for result in results:
            self._policy.check_resolved(connecting_to.get(), ipaddress.ip_address(result["host"].partition("%")[0]))
        return results

    async def close(self) -> None:
        for threads in (self._threads, self._slow_threads):
            threads.shutdown(wait=False, cancel_futures=True)


def _timed(host: str, port: int, family: socket.AddressFamily) -> tuple[float, list[ResolveResult] | OSError]:
    """What the system says, and after how many seconds."""
    begun = time.monotonic()
    try:
        found: list[ResolveResult] | OSError = _resolve(host, port, family)
    except OSError as error:
        found = error
    return time.monotonic() - begun, found


def _resolve(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [
        ResolveResult(hostname=host, host=_numeric(address), port=port, family=kind, proto=proto, flags=_NUMERIC)
        for kind, _, proto, _, address in found
    ]


def _numeric(address: tuple[Any, ...]) -> str:
    """With the zone of a link-local address, without which it cannot be reached."""
    return socket.getnameinfo(address, _NUMERIC_NAME)[0]
