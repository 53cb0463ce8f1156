"""The directory of a deployment, asked through the api's ``/internal`` route. Called by ``moe_operator.reconcile``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, DirectoryReport
from moe_operator.api import MoEDeployment
from moe_operator.finding import Finding
from moe_operator.kube.errors import NameConflictError
from moe_operator.kube.secrets import Secrets
from moe_operator.offload.aside import Aside
from moe_operator.recent import Recent
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import (
    CrowdedError,
    DirectoryAwayError,
    DirectoryError,
    KeyRefusedError,
    NobodyThereError,
    RayAddressRefusedError,
    RayAnswerRefusedError,
    RayUnreachableError,
    RouteMissingError,
)
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.report import MOST_BYTES, NoReportError, parse_report
from moe_operator.runtimes.statistics import TrafficStatistics

READ_SECONDS = 4.0


class Absence(Enum):
    """What is not there, of what a directory is asked through."""

    DIRECTORY = auto()
    """It alone: Serve, or an api, answers in its place."""
    NOBODY = auto()
    """Nothing answers at all; an error, or that a key is not taken, would be a sign of life."""


@dataclass(frozen=True, slots=True)
class Heard:
    """Attributes:
    report: None if there is none.
    problem: why not, where that is to be told.
    absence: what is not there, or not now; None where the directory may well be.
    """

    report: DirectoryReport | None = None
    problem: Finding | None = None
    absence: Absence | None = None


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

    async def ask(self, moe: MoEDeployment, secrets: Secrets, serve_url: str, route_prefix: str, named: str) -> Heard:
        """Ask for the report with the deployment's own key; otherwise as ``read``, but what is in the way is told.

        Raises:
            StaleBasisError: what it was asked with changed meanwhile: ask again.
            KubeError: the API server refused or did not answer.
        """
        try:
            key = await secrets.internal_key(moe)
            return Heard(await self.read(serve_url, route_prefix, key, named))
        except NameConflictError:
            return Heard()  # told by who makes the key
        except (DirectoryError, RayAddressRefusedError, RayAnswerRefusedError) as error:
            if isinstance(error, KeyRefusedError):
                secrets.internal_key_refused(moe)
            return Heard(None, Finding(error.reason, str(error)), _absence(error))

    async def read(self, serve_url: str, route_prefix: str, key: str, named: str = "") -> DirectoryReport:
        """Ask for the report; ``key`` is the deployment's internal key, ``named`` says what ``serve_url`` is.

        Raises:
            NobodyThereError: nothing answers.
            RouteMissingError: Serve has no such route (yet).
            KeyRefusedError: the key is not taken there.
            DirectoryAwayError: Serve, or an api, answers that it cannot be reached.
            DirectoryError: no report, for another reason.
            RayAddressRefusedError: the operator may not connect there.
            RayAnswerRefusedError: it answers more than can be taken, now or lately.
        """
        path = f"{route_prefix.rstrip('/')}{INTERNAL_REPORT_PATH}"
        aside = self._aside.get_or_make(f"{serve_url.rstrip('/')}{path}", Aside)
        with aside.around(RayAnswerRefusedError):
            return await self._read(serve_url, path, key, named or f"Serve is at {serve_url}")

    async def _read(self, serve_url: str, path: str, key: str, named: str) -> DirectoryReport:
        url = f"{serve_url.rstrip('/')}{path}"
        try:
            answer, report = await self._http.read(
                serve_url, path, parse_report, most=MOST_BYTES, seconds=READ_SECONDS, credential=Credential(key),
                headers={CONTRACT_HEADER: str(CONTRACT)},
            )  # fmt: skip
        except RayUnreachableError as error:
            kind = DirectoryError if isinstance(error, CrowdedError) else NobodyThereError
            raise kind(f"{named}, but {error}") from error
        except NoReportError as error:
            raise DirectoryError(
                f"{url} answers something else than this release's report ({error}): run the same release of "
                f"moe-operator on Ray and in Kubernetes; {named}"
            ) from error
        if answer.status == 404:
            raise RouteMissingError(f"Serve at {serve_url} has no route {path}")
        KeyRefusedError.check(answer.status, url)
        if report is None:
            kind = DirectoryAwayError if answer.status >= 500 else DirectoryError
            raise kind(f"{url} answers HTTP {answer.status} instead of a report")
        return report


def _absence(error: Exception) -> Absence | None:
    if isinstance(error, NobodyThereError):
        return Absence.NOBODY
    return Absence.DIRECTORY if isinstance(error, RouteMissingError | DirectoryAwayError) else None
