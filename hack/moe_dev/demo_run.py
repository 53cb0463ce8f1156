"""A demo under way: what runs, what was applied, and how to ask it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_contract.report import DirectoryReport
from moe_dev.demo_client import directory_report
from moe_dev.demo_cluster import Cluster
from moe_dev.kube import KubectlError
from moe_dev.paths import CLONE
from moe_dev.processes import Guarded

EXAMPLE = CLONE / "examples" / "01-tiny.yaml"


class DemoError(Exception):
    """The job did not succeed; the message says where to look."""


@dataclass(frozen=True, slots=True)
class Demo:
    """All that runs. `deployment` is the example as it was applied, `manifest` its file, `token` that of its Ray."""

    cluster: Cluster
    processes: tuple[Guarded, ...]
    token: str
    deployment: Mapping[str, Any]
    manifest: Path = EXAMPLE

    @property
    def name(self) -> str:
        return str(self.deployment["metadata"]["name"])

    def live(self) -> dict[str, Any]:
        """The MoEDeployment as the API server has it; DemoError when it, or something that should run, is gone."""
        try:
            found = self.cluster.kubectl.get("moe", self.name, self.cluster.namespace)
        except KubectlError:
            self.check()  # says more than that nobody answers
            raise
        if found is None:
            raise DemoError(f"MoEDeployment {self.name} is gone from namespace {self.cluster.namespace}")
        return found

    def ended(self) -> Guarded | None:
        """A process without which nothing of this works, and which has ended all the same."""
        return next((process for process in self.processes if process.exit_code is not None), None)

    def check(self) -> None:
        """DemoError when something ended that should run."""
        if process := self.ended():
            raise DemoError(f"{process.name} ended with {process.exit_code}: see {process.log}")

    @property
    def url(self) -> str:
        """Base URL of its OpenAI API."""
        return str(self.live()["status"]["url"])

    def report(self) -> DirectoryReport:
        """What its directory tells the operator."""
        try:
            return directory_report(self.cluster.kubectl, self.cluster.namespace, self.name, self.url)
        except (OSError, ValueError, LookupError) as error:
            raise DemoError(f"the directory of {self.name} does not report: {error}") from error
