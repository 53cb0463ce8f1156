"""kubectl with one kubeconfig, strict validation always on; kubeconfigs of ServiceAccounts. Used by demo and tests."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# How long the operator's token holds: longer than any test session or demo.
TOKEN_DURATION = "24h"
CALL_SECONDS = 60.0


class KubectlError(Exception):
    """kubectl failed; the message is the command and what it wrote to standard error."""


@dataclass(frozen=True, slots=True)
class Kubectl:
    """`binary` run with `kubeconfig`; every method raises KubectlError when kubectl fails."""

    binary: Path
    kubeconfig: Path

    def run(self, *arguments: str, text: str | None = None, timeout: float = CALL_SECONDS) -> str:
        """Standard output of `kubectl ARGUMENTS`; `text` goes to its standard input."""
        command = [str(self.binary), *arguments]
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        try:
            ended = subprocess.run(
                command, env=environment, input=text, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise KubectlError(f"waited {timeout:.0f} s for kubectl {' '.join(arguments)}") from None
        if ended.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments)}: {ended.stderr.strip() or ended.stdout.strip()}")
        return ended.stdout

    def apply(self, *sources: Path | str | Mapping[str, Any], namespace: str | None = None) -> str:
        """Apply files or directories (Path), YAML (str) and objects (Mapping); unknown fields are errors."""
        where = ("--namespace", namespace) if namespace else ()
        said = []
        for source in sources:
            if isinstance(source, Path):
                said.append(self.run("apply", "--validate=strict", *where, "-f", str(source)))
            else:
                text = source if isinstance(source, str) else json.dumps(source)
                said.append(self.run("apply", "--validate=strict", *where, "-f", "-", text=text))
        return "".join(said)

    def get(self, resource: str, name: str, namespace: str | None = None) -> dict[str, Any] | None:
        """The object, or None where there is none."""
        where = ("--namespace", namespace) if namespace else ()
        output = self.run("get", resource, name, *where, "--ignore-not-found", "-o", "json")
        return json.loads(output) if output else None

    def service_account_kubeconfig(self, namespace: str, name: str, path: Path) -> Path:
        """Write a kubeconfig with a fresh token of a ServiceAccount to `path` (0600): its rights and no others."""
        token = self.run("create", "token", name, "--namespace", namespace, f"--duration={TOKEN_DURATION}").strip()
        config = json.loads(self.run("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        user = f"system:serviceaccount:{namespace}:{name}"
        config["users"] = [{"name": user, "user": {"token": token}}]
        for context in config["contexts"]:
            context["context"]["user"] = user
        return write_private(path, json.dumps(config, indent=1))


def write_private(path: Path, text: str) -> Path:
    """Write a file that only its owner may read."""
    path.touch(mode=0o600)
    path.write_text(text)
    return path
