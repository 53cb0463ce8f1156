"""What a directory gathered of its traffic, asked for through the api's ``/internal`` route, for ``directory``."""

from __future__ import annotations

from moe_contract.report import INTERNAL_STATISTICS_PATH
from moe_operator.runtimes.credential import Credential
from moe_operator.runtimes.errors import DirectoryError, KeyRefusedError, RayUnreachableError
from moe_operator.runtimes.http.client import HttpClient

MOST_BYTES = 16 * 1024 * 1024
"""Of an answer: as many as those of 58 layers of 256 experts may take."""
READ_SECONDS = 30.0


async def read_statistics(http: HttpClient, serve_url: str, route_prefix: str, key: str) -> bytearray:
    """Ask for the statistics, packed; ``key`` is the deployment's internal key.

    Returns:
        Nothing before there are any.

    Raises:
        KeyRefusedError: the key is not taken there.
        DirectoryError: no statistics, for another reason.
        RayAddressRefusedError: the operator may not connect there.
        RayAnswerRefusedError: they are more than can be taken.
    """
    path = f"{route_prefix.rstrip('/')}{INTERNAL_STATISTICS_PATH}"
    try:
        answer = await http.fetch(serve_url, path, most=MOST_BYTES, seconds=READ_SECONDS, credential=Credential(key))
    except RayUnreachableError as error:
        raise DirectoryError(f"spec.runtime.rayCluster.serveURL is {serve_url}, but {error}") from error
    url = f"{serve_url.rstrip('/')}{path}"
    if answer.status in (401, 403):
        raise KeyRefusedError(f"{url} does not take the operator's key (HTTP {answer.status})")
    if answer.status not in (200, 204):
        raise DirectoryError(f"{url} answers HTTP {answer.status} instead of statistics")
    return answer.body if answer.status == 200 else bytearray()
