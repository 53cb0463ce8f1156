"""A proxy in front of a real API server that misbehaves when the test says so."""

import asyncio
import contextlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from aiohttp import web
from fake_ray import running_handler

_OF_ONE_HOP = {"host", "transfer-encoding", "content-length", "connection", "content-encoding"}


@dataclass
class FaultyProxy:
    """Passes everything on, with the credentials of whoever asks.

    Attributes:
        silent_watches: watches get no answer, and those under way no further word.
        refuses: everything gets 401.
    """

    server: str
    silent_watches: bool = False
    refuses: bool = False
    url: str = ""
    watches: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if self.refuses:
            return web.json_response({"kind": "Status", "message": "Unauthorized"}, status=401)
        watching = "watch" in request.query
        self.watches += watching
        if watching and self.silent_watches:
            await _silence()
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OF_ONE_HOP}
        body = await request.read() or None
        connector = aiohttp.TCPConnector(ssl=_anybody())
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
            answer = await session.request(
                request.method,
                self.server + str(request.rel_url),
                headers=headers,
                data=body,
                skip_auto_headers=("Content-Type",),
                timeout=aiohttp.ClientTimeout(total=None),
            )
            try:
                passed = {name: value for name, value in answer.headers.items() if name.lower() not in _OF_ONE_HOP}
                response = web.StreamResponse(status=answer.status, headers=passed)
                await response.prepare(request)
                async for chunk in self._chunks(answer, watching):
                    await response.write(chunk)
                return response
            finally:
                # A connection that says goodbye as TLS asks is still there when the proxy's loop ends.
                await connector.close(abort_ssl=True)
                answer.close()

    async def _chunks(self, answer: aiohttp.ClientResponse, watching: bool) -> AsyncIterator[bytes]:
        async for chunk in answer.content.iter_any():
            if watching and self.silent_watches:
                await _silence()
            yield chunk
        if watching and self.silent_watches:
            await _silence()


async def _silence() -> None:
    """Not a word, until the proxy ends."""
    await asyncio.Event().wait()


def _anybody() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@contextlib.contextmanager
def proxied(kubeconfig: Path) -> Iterator[FaultyProxy]:
    """In front of the API server of ``kubeconfig``, which is made to go through it."""
    config = json.loads(kubeconfig.read_text())
    cluster = config["clusters"][0]["cluster"]
    proxy = FaultyProxy(cluster["server"])
    with running_handler(proxy.handle) as proxy.url:
        config["clusters"][0]["cluster"] = {"server": proxy.url}
        kubeconfig.write_text(json.dumps(config))
        yield proxy


def probe(url: str) -> tuple[int, str]:
    """What /healthz answers."""
    try:
        with urllib.request.urlopen(f"{url}/healthz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()
