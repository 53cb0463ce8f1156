"""What the tests on nodes run on."""

import os
from dataclasses import dataclass

from moe_dev.kube import Kubectl, KubectlError
from moe_dev.node import images
from moe_dev.node.cluster import Cluster

# Of pods that need Python and the packages of this project. On a foreign cluster: one that it can pull.
IMAGE = os.environ.get("E2E_IMAGE", images.BASE)


@dataclass(frozen=True, slots=True)
class Nodes:
    """A cluster under test: `kubectl` as administrator, the names of its nodes, and `own` where it is ours."""

    kubectl: Kubectl
    names: tuple[str, ...]
    own: Cluster | None

    def python(self, namespace: str, pod: str, code: str, *arguments: str) -> str:
        """What ``code`` prints, run in a pod; where it fails, or there is no such pod yet, the error."""
        try:
            return self.kubectl.run("exec", "-n", namespace, pod, "--", "python3", "-c", code, *arguments).strip()
        except KubectlError as error:
            return str(error)
