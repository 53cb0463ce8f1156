"""The Kubernetes cluster of a demo: the embedded control plane, or the user's own where KUBECONFIG names one."""

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moe_dev import binaries, own_cluster
from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess, install
from moe_dev.processes import Guarded
from moe_dev.progress import say


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the demo's deployment goes. `processes`: what it runs on, nothing where it is the user's `own`."""

    kubectl: Kubectl
    namespace: str
    own: bool
    processes: tuple[Guarded, ...] = ()

    @property
    def shell(self) -> tuple[str, ...]:
        """Lines after which `kubectl` in a user's shell means this cluster."""
        kubeconfig, folder = (shlex.quote(str(path)) for path in (self.kubectl.kubeconfig, self.kubectl.binary.parent))
        return (f"export KUBECONFIG={kubeconfig}", f'export PATH="$PATH:"{folder}')

    def start_operator(self, directory: Path) -> OperatorProcess:
        """Run the operator: in a user's own cluster for the demo's namespace only, with its Lease there."""
        if not self.own:
            return OperatorProcess.start(self.kubectl, directory, beside=self.processes)
        only = (f"--namespace={self.namespace}", f"--lease-namespace={self.namespace}")
        return OperatorProcess.start(self.kubectl, directory, *only, namespace=self.namespace)


@contextmanager
def demo_cluster(directory: Path) -> Iterator[Cluster]:
    """A cluster that knows MoEDeployments and the operator's ServiceAccount; what was made for the demo goes again.

    The user's cluster if KUBECONFIG is set, else one of our own below `directory`.
    """
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        kubectl = Kubectl(binaries.binary(binaries.KUBECTL), Path(kubeconfig))
        context = kubectl.run("config", "current-context").strip()
        say(f"using the cluster of context {context} in {kubectl.kubeconfig}: Kubernetes {_version(kubectl)}")
        with own_cluster.demo_namespace(kubectl):
            yield Cluster(kubectl, own_cluster.NAMESPACE, own=True)
        return
    # A first demo need not wait until the controllers are built: nothing that the operator makes relies on them.
    with ControlPlane.start(directory / "controlplane", controllers=False) as plane:
        say(f"Kubernetes {_version(plane.kubectl)} answers at {plane.url}")
        install(plane.kubectl)
        yield Cluster(plane.kubectl, "default", own=False, processes=plane.processes)


def _version(kubectl: Kubectl) -> str:
    return str(json.loads(kubectl.run("version", "-o", "json"))["serverVersion"]["gitVersion"])
