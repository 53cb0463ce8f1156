"""The directory of a deployment, asked through the api's ``/internal`` route. Called by ``moe_operator.reconcile``."""

from __future__ import annotations

from moe_contract.report import INTERNAL_REPORT_PATH, DirectoryReport
from moe_operator.offload.aside import Aside
from moe_operator.recent import Recent
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import (
    DirectoryError,
    KeyRefusedError,
    RayAnswerRefusedError,
    RayUnreachableError,
    RouteMissingError,
)
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.report import MOST_BYTES, NoReportError, parse_report
from moe_operator.runtimes.statistics import TrafficStatistics

READ_SECONDS = 4.0


class Directories:
    """All directories. One that answers more than can be taken is left alone for a while: itself, not those of others
    behind the same Serve.

    Attributes:
        statistics: what they gathered of their traffic.
    """

    def __init__(self, http: HttpClient) -> None:
        self._http = http
        self.statistics = TrafficStatistics(http)
        self._aside: Recent[str, Aside] = Recent()

    async def read(self, serve_url: str, route_prefix: str, key: str) -> DirectoryReport:
        """Ask for the report; ``key`` is the deployment's internal key.

        Raises:
            RouteMissingError: Serve has no such route (yet).
            KeyRefusedError: the key is not taken there.
            DirectoryError: no report, for another reason.
            RayAddressRefusedError: the operator may not connect there.
            RayAnswerRefusedError: it answers more than can be taken, now or lately.
        """
        path = f"{route_prefix.rstrip('/')}{INTERNAL_REPORT_PATH}"
        aside = self._aside.get_or_make(f"{serve_url.rstrip('/')}{path}", Aside)
        if aside.why is not None:
            raise RayAnswerRefusedError(aside.why)
        try:
            report = await self._read(serve_url, path, key)
        except RayAnswerRefusedError as error:
            aside.put(str(error))
            raise
        aside.clear()
        return report

    async def _read(self, serve_url: str, path: str, key: str) -> DirectoryReport:
        url = f"{serve_url.rstrip('/')}{path}"
        try:
            answer, report = await self._http.read(
                serve_url, path, parse_report, most=MOST_BYTES, seconds=READ_SECONDS, credential=Credential(key)
            )
        except RayUnreachableError as error:
            raise DirectoryError(f"spec.runtime.rayCluster.serveURL is {serve_url}, but {error}") from error
        except NoReportError as error:
            raise DirectoryError(
                f"{url} answers something else than this release's report ({error}): run the same release of "
                "moe-operator on Ray and in Kubernetes, and check spec.runtime.rayCluster.serveURL"
            ) from error
        if answer.status == 404:
            raise RouteMissingError(f"Serve at {serve_url} has no route {path}")
        if answer.status in (401, 403):
            raise KeyRefusedError(f"{url} does not take the operator's key (HTTP {answer.status})")
        if report is None:
            raise DirectoryError(f"{url} answers HTTP {answer.status} instead of a report")
        return report
