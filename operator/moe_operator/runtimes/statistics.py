"""What directories gathered of their traffic, asked for and handed over through the api's ``/internal`` route, for
``directory``."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from moe_contract.report import INTERNAL_STATISTICS_PATH, STATISTICS_OF_HEADER
from moe_operator.offload.aside import Aside
from moe_operator.recent import Recent
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    RayAnswerRefusedError,
    RayUnreachableError,
)
from moe_operator.runtimes.http.budget import ByteBudget
from moe_operator.runtimes.http.client import Answer, HttpClient

MOST_BYTES = 16 * 1024 * 1024
"""Bound on an answer: as many as those of 58 layers of 256 experts may take."""
HELD_BYTES = 2 * MOST_BYTES
"""Bound on large statistics of all directories together, while they come and while somebody plans from them."""
READ_SECONDS = 30.0
"""In which a directory merges them, which takes seconds of processor time, and sends them."""
TAKE_SECONDS = 10.0
"""In which a directory takes them."""
PATIENCE_SECONDS = 120.0
"""How long room is waited for: some plans of others."""


class TrafficStatistics:
    """Those of all directories. One that tells more than can be taken is left alone for a while."""

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self._aside: Recent[str, Aside] = Recent()
        self._held = ByteBudget(HELD_BYTES)

    @asynccontextmanager
    async def read(self, serve_url: str, route_prefix: str, key: str, named: str = "") -> AsyncIterator[bytearray]:
        """Ask for the statistics, packed, and hold them while inside; empty before there are any.

        What is small waits for nobody. Of what is large there is room for two, and each tenant has one at a time.
        ``key`` is the deployment's internal key, ``named`` says what ``serve_url`` is.

        Raises:
            KeyRefusedError: the key is not taken there.
            DirectoryError: no statistics, for another reason.
            RayAddressRefusedError: the operator may not connect there.
            RayAnswerRefusedError: they are more than can be taken, now or lately.
        """
        path, url = _where(serve_url, route_prefix)
        async with AsyncExitStack() as held:
            answer = await self._answer(held, serve_url, path, key, _called(named, serve_url))
            KeyRefusedError.check(answer.status, url)
            if answer.status not in (200, 204):
                raise DirectoryError(f"{url} answers HTTP {answer.status} instead of statistics")
            yield answer.body if answer.status == 200 else bytearray()

    async def hand_over(
        self, serve_url: str, route_prefix: str, key: str, packed: bytearray, former: str, named: str = ""
    ) -> None:
        """Have a directory of contract 1 count what that of the Ray cluster ``former`` gathered of the same model, too:
        once, however often it is told. Otherwise as ``read``.

        Raises:
            KeyRefusedError, RayAddressRefusedError: as from ``read``.
            DirectoryError: they are not taken.
        """
        path, url = _where(serve_url, route_prefix)
        try:
            answer = await self._http.call(
                "PUT", serve_url, path, seconds=TAKE_SECONDS, credential=Credential(key),
                body=packed, headers={"Content-Type": "application/octet-stream", STATISTICS_OF_HEADER: former},
            )  # fmt: skip
        except RayUnreachableError as error:
            raise DirectoryError(f"{_called(named, serve_url)}, but {error}") from error
        KeyRefusedError.check(answer.status, url)
        if answer.status != 204:
            raise DirectoryError(f"{url} does not take statistics (HTTP {answer.status})")

    async def _answer(self, held: AsyncExitStack, serve_url: str, path: str, key: str, named: str) -> Answer:
        aside = self._aside.get_or_make(f"{serve_url.rstrip('/')}{path}", Aside)
        asking = self._http.holding(
            serve_url, path, most=MOST_BYTES, seconds=READ_SECONDS, room=self._held, patience=PATIENCE_SECONDS,
            credential=Credential(key),
        )  # fmt: skip
        try:
            with aside.around(RayAnswerRefusedError):
                return await held.enter_async_context(asking)
        except RayUnreachableError as error:
            raise DirectoryError(f"{named}, but {error}") from error


def _where(serve_url: str, route_prefix: str) -> tuple[str, str]:
    """The path of the statistics below an address of Serve's, and all of the URL, by which messages name it."""
    path = f"{route_prefix.rstrip('/')}{INTERNAL_STATISTICS_PATH}"
    return path, f"{serve_url.rstrip('/')}{path}"


def _called(named: str, serve_url: str) -> str:
    """How messages call an address."""
    return named or f"Serve is at {serve_url}"
