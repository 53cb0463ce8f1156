"""The way from deployed to ready, told line by line."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from moe_contract.base import CONTRACT
from moe_contract.report import CONTRACT_HEADER, INTERNAL_REPORT_PATH, DirectoryReport
from moe_serving.standalone.errors import StandaloneError
from moe_serving.standalone.serve_rest import ServeRest, direct

_PERIOD_S = 0.3
STALLED_S = 180.0
"""So long nothing may change while something is wrong: loading is tried again by itself, for a disk that comes late."""


def wait_until_ready(
    rest: ServeRest, names: Collection[str], url: str, internal_key: str, tell: Callable[[str], None]
) -> None:
    """Until an answer can be expected; ``tell`` hears of each step on the way.

    Args:
        names: of our applications.
        url: of the core application.

    Raises:
        StandaloneError: an application cannot be deployed, the model cannot be served, or a process cannot load it and
            nothing has changed for ``STALLED_S``.
    """
    told, known, since = "", "", time.monotonic()
    while True:
        report = _report(url, internal_key)
        if report is not None and report.model_problem is not None:
            raise StandaloneError(f"{report.model_problem.reason}: {report.model_problem.message}")
        applications = [application for name, application in rest.status().items() if name in names]
        problems = list(_problems(report))
        steps = "; ".join([*_steps(report), *problems])
        step = "; ".join([steps, *_complaints(applications)])
        if step != told:
            told = step
            tell(step)
        if steps != known:
            known, since = steps, time.monotonic()
        if problems and time.monotonic() - since > STALLED_S:
            raise StandaloneError(f"no progress for {STALLED_S:.0f} s: {'; '.join(problems)}")
        if report is not None and _healthy(url):
            return
        time.sleep(_PERIOD_S)


def _complaints(applications: Iterable[dict[str, Any]]) -> Iterator[str]:
    """What Serve says of deployments that do not come up, such as that there is no GPU left for them.

    Raises:
        StandaloneError: it has given up.
    """
    for application in applications:
        if application["status"] == "DEPLOY_FAILED":
            raise StandaloneError(f"application {application['name']} cannot be deployed: {application['message']}")
        for deployment in application["deployments"].values():
            if deployment["status"] != "HEALTHY" and deployment["message"]:
                yield deployment["message"]


def _steps(report: DirectoryReport | None) -> Iterator[str]:
    if report is None:
        yield "starting api and directory"
        return
    ready = sum(shard.phase == "Ready" for shard in report.shards)
    yield f"{ready} of {len(report.shards)} shards ready"
    yield f"{report.progress.copied} of {report.progress.total} expert copies loaded"
    waiting = [replica for replica in report.attention if not replica.ready]
    yield f"{len(report.attention) - len(waiting)} of {max(1, len(report.attention))} attention replicas ready"


def _problems(report: DirectoryReport | None) -> Iterator[str]:
    if report is not None:
        yield from (f"shard {shard.index}: {shard.problem}" for shard in report.shards if shard.problem)
        yield from (f"attention replica {each.replica}: {each.problem}" for each in report.attention if each.problem)


def _report(url: str, key: str) -> DirectoryReport | None:
    raw = _get(f"{url}{INTERNAL_REPORT_PATH}", {"Authorization": f"Bearer {key}", CONTRACT_HEADER: str(CONTRACT)})
    return None if raw is None else DirectoryReport.model_validate_json(raw)


def _healthy(url: str) -> bool:
    return _get(f"{url}/healthz", {}) is not None


def _get(url: str, headers: dict[str, str]) -> bytes | None:
    """The body of a successful answer, None for any other."""
    try:
        with direct.open(urllib.request.Request(url, headers=headers), timeout=10) as response:
            body: bytes = response.read()
            return body
    except (OSError, http.client.HTTPException):
        return None
