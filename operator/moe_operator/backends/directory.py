"""The directory of a deployment, asked through the api's ``/internal`` route. Called by ``moe_operator.reconcile``."""

from __future__ import annotations

from pydantic import ValidationError

from moe_operator.backends.errors import DirectoryError, RayUnreachableError, RouteMissingError
from moe_operator.backends.http import HttpClient
from moe_placement.wire.report import INTERNAL_REPORT_PATH, DirectoryReport

READ_SECONDS = 4.0


async def read_report(http: HttpClient, serve_url: str, route_prefix: str, key: str) -> DirectoryReport:
    """Ask for the report; ``key`` is the deployment's internal key.

    Raises:
        RouteMissingError: Serve has no such route (yet).
        DirectoryError: no report, for another reason.
        RayAddressRefusedError: the operator may not connect there.
    """
    path = f"{route_prefix.rstrip('/')}{INTERNAL_REPORT_PATH}"
    url = f"{serve_url.rstrip('/')}{path}"
    try:
        answer = await http.call("GET", serve_url, path, seconds=READ_SECONDS, token=key)
    except RayUnreachableError as error:
        raise DirectoryError(f"spec.runtime.rayCluster.serveURL is {serve_url}, but {error}") from error
    if answer.status == 404:
        raise RouteMissingError(f"Serve at {serve_url} has no route {path}")
    if answer.status != 200:
        raise DirectoryError(f"{url} answers HTTP {answer.status} instead of a report")
    try:
        return DirectoryReport.model_validate_json(answer.body)
    except ValidationError as error:
        raise DirectoryError(
            f"{url} answers something else than this release's report ({_fault(error)}): run the same release of "
            "moe-operator on Ray and in Kubernetes, and check spec.runtime.rayCluster.serveURL"
        ) from error


def _fault(error: ValidationError) -> str:
    """What is wrong, in our words: what answers may be no directory, and what it says nobody's business."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = fault["loc"][0] if fault["loc"] else ""
    where = f"field {field}: " if field in DirectoryReport.model_fields else ""
    return f"{where}{fault['type']}"
