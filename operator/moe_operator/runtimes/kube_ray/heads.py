"""The directories of a deployment's Ray clusters, each asked at the head of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.kube.api import Json
from moe_operator.kube.secrets import Secrets
from moe_operator.runtimes.directory import Absence, Directories, Heard
from moe_operator.runtimes.errors import DirectoryError
from moe_operator.runtimes.kube_ray.clusters import head_url


@dataclass(frozen=True, slots=True)
class Heads:
    """As they are now.

    Attributes:
        pods: of the deployment.
        route: of its core application.
    """

    directories: Directories
    secrets: Secrets
    moe: MoEDeployment
    pods: Sequence[Json]
    route: str

    async def report(self, cluster: str) -> Heard:
        """What the directory of a Ray cluster reports; raises as ``Directories.ask``."""
        url = head_url(cluster, self.pods)
        if url is None:
            problem = f"the head of Ray cluster {cluster} has no pod with an address"
            return Heard(problem=Finding(Reason.DIRECTORY_UNREACHABLE, problem), absence=Absence.NOBODY)
        return await self.directories.ask(self.moe, self.secrets, url, self.route, _named(cluster, url))

    async def directory(self, cluster: str | None) -> tuple[str, str, str, str]:
        """Where Serve on the head of a cluster answers, its route, the key to it, and how messages call it.

        Raises:
            DirectoryError: nothing answers there.
            StaleBasisError, KubeError: as ``Secrets.internal_key``.
        """
        url = head_url(cluster, self.pods) if cluster else None
        if cluster is None or url is None:
            raise DirectoryError(f"no head of RayService {self.moe.key} has an address")
        return url, self.route, await self.secrets.internal_key(self.moe), _named(cluster, url)


def _named(cluster: str, url: str) -> str:
    return f"the head of Ray cluster {cluster} is at {url}"
