"""helm with one kubeconfig, or with none for what needs no cluster. Used by tests, and to render operator/manifests."""

import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from moe_dev import binaries
from moe_dev.paths import CLONE

CHART = CLONE / "charts" / "moe-operator"
CALL_SECONDS = 120.0


class HelmError(Exception):
    """helm failed; the message is the command and what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Helm:
    """Every method raises HelmError when helm fails. `values` are those of a values file."""

    kubeconfig: Path | None = None

    def run(self, *arguments: str, values: Mapping[str, Any] | None = None, timeout: float = CALL_SECONDS) -> str:
        """Standard output of `helm ARGUMENTS`; nothing of the user's own helm is read or written."""
        with tempfile.TemporaryDirectory() as home:
            command = [str(binaries.binary(binaries.HELM)), *arguments]
            if values is not None:
                file = Path(home) / "values.yaml"
                file.write_text(yaml.safe_dump(dict(values)))
                command.append(f"--values={file}")
            own = {f"HELM_{what}_HOME": home for what in ("CACHE", "CONFIG", "DATA")}
            environment = {**os.environ, **own, "KUBECONFIG": str(self.kubeconfig or Path(home) / "none")}
            try:
                ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
            except subprocess.TimeoutExpired:
                raise HelmError(f"helm {' '.join(arguments)}: not done within {timeout:.0f} s") from None
        if ended.returncode != 0:
            raise HelmError(f"helm {' '.join(arguments)}: {ended.stderr.strip() or ended.stdout.strip()}")
        return ended.stdout

    def template(
        self, *arguments: str, name: str = "moe-operator", namespace: str = "moe-system", **values: Any
    ) -> list[dict[str, Any]]:
        """The objects of the chart, hooks among them, as a release of that name would have them."""
        text = self.rendered(*arguments, name=name, namespace=namespace, **values)
        return [document for document in yaml.safe_load_all(text) if document]

    def rendered(self, *arguments: str, name: str, namespace: str, **values: Any) -> str:
        """The same as text, as for the Kubernetes of these tests."""
        where = (f"--namespace={namespace}", f"--kube-version={binaries.kubernetes_version()}")
        return self.run("template", name, str(CHART), *where, *arguments, values=values)
