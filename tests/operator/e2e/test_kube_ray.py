"""An operator process and KubeRay: absent, installed while it runs, and what both make of a MoEDeployment, on an API
server without nodes."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kube_ray_objects import IMAGE, install_kube_ray_kinds, remove_kube_ray_kinds
from moe_objects import REMOVED, TOLD, Objects

from moe_dev.binaries import binary, missing
from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess
from moe_dev.processes import Guarded
from moe_operator.runtimes.kube_ray.clusters import of_pods

pytestmark = pytest.mark.e2e

OPERATOR = "ray-operator"
SPEC = {
    "model": {"source": {"path": "models/tiny"}},
    "experts": {"shards": 2},
    "runtime": {"kubeRay": {"image": IMAGE}},
}


@pytest.mark.long
def test_kube_ray_is_installed_while_the_operator_runs(operator: OperatorProcess, objects: Objects) -> None:
    remove_kube_ray_kinds(objects.kube)
    objects.apply("tiny", SPEC)
    objects.wait_condition("tiny", "RuntimeReachable", "False", "KubeRayMissing", TOLD)
    install_kube_ray_kinds(objects.kube)
    objects.wait("the RayService to be made", lambda: bool(service(objects)), TOLD)
    objects.wait_condition("tiny", "RuntimeReachable", "True", "Reachable", TOLD)
    assert service(objects)["metadata"]["ownerReferences"][0]["name"] == "tiny"
    objects.delete("tiny")
    objects.wait_gone("tiny", REMOVED)
    assert not service(objects)


@pytest.fixture
def kube_ray(kube: Kubectl, tmp_path: Path) -> Iterator[Guarded]:
    """KubeRay's own operator."""
    if missing([OPERATOR]):
        pytest.skip(f"{OPERATOR} is not built: python -m moe_dev.setup --binaries {OPERATOR}")
    install_kube_ray_kinds(kube, "rayservices", "rayclusters", "rayjobs", "raycronjobs")
    command = [
        str(binary(OPERATOR)),
        "--metrics-addr=127.0.0.1:0",
        "--health-probe-bind-address=127.0.0.1:0",
        "--enable-leader-election=false",
        f"--kubeconfig={kube.kubeconfig}",
    ]
    environment = {**os.environ, "KUBECONFIG": str(kube.kubeconfig)}
    process = Guarded.start("kuberay", command, tmp_path / "kuberay.log", environment=environment)
    yield process
    process.stop()


def test_kube_ray_makes_pods_that_pass_the_restricted_standard(
    operator: OperatorProcess, objects: Objects, kube_ray: Guarded, tmp_path: Path
) -> None:
    enforced = "pod-security.kubernetes.io/enforce=restricted"
    objects.kube.run("label", "namespace", objects.namespace, enforced)
    objects.apply("tiny", SPEC)
    roles = "expert-shard", "expert-shard", "attention", "ray-head"
    found: list[dict] = []

    def there() -> bool:
        found[:] = json.loads(objects.kube.run("get", "pods", "-n", objects.namespace, "-o", "json"))["items"]
        return len(found) == len(roles)

    objects.wait("a pod for each shard, attention and the head", there)
    labels = [pod["metadata"]["labels"] for pod in found]
    assert sorted(each["moe-operator.io/component"] for each in labels) == sorted(roles)
    (cluster,) = {each["ray.io/cluster"] for each in labels}

    # By what KubeRay made of it nothing waits for an upgrade.
    made = (objects.kube.get("rayclusters.ray.io", cluster, objects.namespace) or {})["spec"]
    assert of_pods(made) == of_pods(service(objects)["spec"]["rayClusterConfig"])

    def selects() -> bool:
        selector = (objects.kube.get("service", "tiny-moe-api", objects.namespace) or {})["spec"]["selector"]
        return selector == {"ray.io/cluster": cluster, "ray.io/group": "attention"}

    objects.wait("the Service to lead to the pods of attention", selects, TOLD)
    assert objects.condition("tiny", "Degraded")["status"] == "False"

    # A version before kept no pod that nothing runs on. Other numbers start no other cluster.
    uids = {pod["metadata"]["uid"] for pod in found}
    for kind, name, at in (("raycluster", cluster, "/spec"), ("rayservice", "tiny", "/spec/rayClusterConfig")):
        paths = [f"{at}/workerGroupSpecs/{group}/minReplicas" for group in (0, 1)]
        none = json.dumps([{"op": "replace", "path": path, "value": 0} for path in paths])
        objects.kube.run("patch", kind, name, "-n", objects.namespace, "--type=json", "-p", none)

    def kept() -> bool:
        running = (objects.kube.get("rayclusters.ray.io", cluster, objects.namespace) or {})["spec"]
        later = service(objects)["spec"]["rayClusterConfig"]
        kept = [[group["minReplicas"] for group in of["workerGroupSpecs"]] for of in (running, later)]
        return kept == [[0, 0], [1, 2]]

    def looks() -> int:
        """Of KubeRay at what it has begun; one every two seconds, and one for each change."""
        return (tmp_path / "kuberay.log").read_text().count("Reconciling the Serve applications for pending cluster")

    objects.wait("the fewest pods to be told again", kept, TOLD)
    before = looks()
    objects.wait("KubeRay to have looked at that", lambda: looks() > before + 1, TOLD)
    clusters = objects.kube.run("get", "rayclusters.ray.io", "-n", objects.namespace, "-o", "name").split()
    assert clusters == [f"raycluster.ray.io/{cluster}"]
    assert there()
    assert {pod["metadata"]["uid"] for pod in found} == uids
    objects.delete("tiny")
    objects.wait_gone("tiny", REMOVED)


def service(objects: Objects) -> dict:
    return objects.kube.get("rayservices.ray.io", "tiny", objects.namespace) or {}
