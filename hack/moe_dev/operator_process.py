"""Installs the kinds and the operator's identity in a cluster, and runs the operator with that identity's rights.

Used by the demo and the tests. `own_cluster` confines the same identity to one namespace of a user's own cluster.
"""

import http.client
import json
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import yaml

from moe_dev.kube import Kubectl
from moe_dev.paths import CLONE
from moe_dev.processes import Guarded
from moe_serving.standalone.ports import free_ports

CRDS = CLONE / "crds"
MANIFESTS = CLONE / "operator" / "manifests"
READY_SECONDS, ESTABLISHED_SECONDS = 60.0, 30.0
# It hands its Lease back and finishes the keys in hand.
GRACE_SECONDS = 10.0


def install(kubectl: Kubectl) -> None:
    """Apply the CRDs, wait until the API serves them, then the operator's ServiceAccount and rights."""
    install_crds(kubectl, CRDS)
    for manifest in sorted(MANIFESTS.glob("*.yaml")):
        kubectl.apply(manifest)


def install_crds(kubectl: Kubectl, path: Path) -> None:
    """Apply the CRDs of a file or folder and wait until the API serves them."""
    kubectl.apply(path)
    wait_established(kubectl, path)


def wait_established(kubectl: Kubectl, path: Path) -> None:
    """Until the API serves the CRDs of a file or folder, which were applied; `kubectl wait` fails on a CRD so new that
    its conditions are not there, or null.

    Raises:
        TimeoutError: some are not served after 30 s.
    """
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    while missing := _not_established(json.loads(kubectl.run("get", "-f", str(path), "-o", "json"))):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {ESTABLISHED_SECONDS:.0f} s for the API to serve {', '.join(missing)}")
        time.sleep(0.1)


def _not_established(found: dict[str, Any]) -> list[str]:
    crds = found["items"] if found["kind"] == "List" else [found]
    return [crd["metadata"]["name"] for crd in crds if not _is_established(crd)]


def _is_established(crd: dict[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions") or ()
    return any((each["type"], each["status"]) == ("Established", "True") for each in conditions)


def service_account() -> tuple[str, str]:
    """Namespace and name of the ServiceAccount that the manifests give the operator."""
    for manifest in sorted(MANIFESTS.glob("*.yaml")):
        for document in yaml.safe_load_all(manifest.read_text()):
            if document and document["kind"] == "ServiceAccount":
                return document["metadata"]["namespace"], document["metadata"]["name"]
    raise LookupError(f"no ServiceAccount in {MANIFESTS}/*.yaml")


@dataclass(frozen=True, slots=True)
class OperatorProcess:
    """One running `moe-operator run`; `url` serves /healthz and /metrics."""

    url: str
    user: str
    process: Guarded

    @classmethod
    def start(
        cls,
        kubectl: Kubectl,
        directory: Path,
        *arguments: str,
        namespace: str | None = None,
        account: str | None = None,
        beside: Sequence[Guarded] = (),
        python: Path = Path(sys.executable),
    ) -> Self:
        """Start it as its ServiceAccount and wait until it is healthy; log and kubeconfig go to `directory`.

        It also works there, so that a model's path which is relative to where Ray runs leads it nowhere. `namespace`:
        where its ServiceAccount is, if not where the manifests put it, and `account` its name, if not theirs. `beside`:
        processes that it cannot be healthy without. `python`: of which environment.
        """
        usual, name = service_account()
        namespace, name = namespace or usual, account or name
        port = free_ports(1)[0]
        kubeconfig = kubectl.service_account_kubeconfig(namespace, name, directory / f"operator-{port}.kubeconfig")
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        address = f"127.0.0.1:{port}"
        command = [str(python), "-m", "moe_operator", "run", f"--bind={address}", *arguments]
        log = directory / f"operator-{port}.log"
        process = Guarded.start(
            "moe-operator", command, log, environment=environment, directory=directory, grace=GRACE_SECONDS
        )
        operator = cls(f"http://{address}", f"system:serviceaccount:{namespace}:{name}", process)
        try:
            process.wait_until(f"{operator.url}/healthz", operator._unhealthy, READY_SECONDS, beside)
        except BaseException:
            process.stop()
            raise
        return operator

    def stop(self) -> None:
        """End it the orderly way; does nothing when it has ended."""
        self.process.stop()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()

    def _unhealthy(self) -> str | None:
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=5):
                return None
        except urllib.error.HTTPError as error:
            with error:
                return f"{error}: {error.read().decode(errors='replace')}"
        except (OSError, http.client.HTTPException) as error:
            return str(error)
