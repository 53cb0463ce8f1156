"""The Kubernetes cluster of a demo: the embedded control plane, or the user's own where KUBECONFIG names one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moe_dev import binaries
from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_dev.progress import say

# In a cluster of one's own the demo's objects keep to a namespace that goes with the demo.
OWN_CLUSTER_NAMESPACE = "moe-demo"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the demo's deployment goes."""

    kubectl: Kubectl
    namespace: str

    @property
    def shell(self) -> tuple[str, ...]:
        """Lines after which `kubectl` in a user's shell means this cluster."""
        return (f"export KUBECONFIG={self.kubectl.kubeconfig}", f"export PATH=$PATH:{self.kubectl.binary.parent}")


@contextmanager
def demo_cluster(directory: Path) -> Iterator[Cluster]:
    """The user's cluster if KUBECONFIG is set, else one of our own below `directory`, which ends with the block."""
    kubeconfig = os.environ.get("KUBECONFIG")
    if kubeconfig:
        yield _own(Kubectl(binaries.binary(binaries.KUBECTL), Path(kubeconfig)))
        return
    with ControlPlane.start(directory / "controlplane") as plane:
        version = binaries.kubernetes_version()
        say(f"Kubernetes {version} answers at {plane.url}")
        yield Cluster(plane.kubectl, "default")


def _own(kubectl: Kubectl) -> Cluster:
    context = kubectl.run("config", "current-context").strip()
    kubectl.run("get", "--raw", "/readyz")
    say(f"using the cluster of context {context} in {kubectl.kubeconfig}")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OWN_CLUSTER_NAMESPACE}}
    kubectl.apply(namespace)
    return Cluster(kubectl, OWN_CLUSTER_NAMESPACE)
