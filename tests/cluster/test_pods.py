"""What keeps pods from coming up, as kubelet and scheduler say it: told by the field that is the cause; and GPUs, which
are only declared."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from deployed import NAME, SHARD, Deployed, spec
from figures import Figures
from moe_objects import condition
from real_nodes import Nodes

from moe_dev.helm import Helm

pytestmark = [pytest.mark.whole, pytest.mark.node]

Json = dict[str, Any]

TOLD_SECONDS = 10
# Bounds on a busy machine: until Ray's head runs and workers are made, and until there is a token.
KEPT_SECONDS, TOKEN_SECONDS = 180.0, 300.0
GPU = "nvidia.com/gpu"
CAPACITY = "/status/capacity/nvidia.com~1gpu"
IMAGE_OF_NOBODY = "registry.invalid/tiny:1"
KEPT: dict[str, tuple[Json, str, str]] = {
    # fields of the spec, reason of Degraded, and what its message names
    "a claim that is not there": (
        {"model": {"source": {"pvc": {"claimName": "gone"}}}}, "VolumeMissing", "spec.model.source.pvc.claimName",
    ),
    "a model's image that cannot be pulled": (
        {"model": {"source": {"image": {"reference": IMAGE_OF_NOBODY}}}},
        "ImagePullFailed",
        "spec.model.source.image.reference",
    ),
    "GPUs that no node has": (
        {"experts": {"shards": 1, "resources": {"gpus": 1}}}, "Unschedulable", "spec.experts.resources.gpus",
    ),
}  # fmt: skip


@pytest.fixture
def alone(nodes: Nodes, operator: Helm, namespace: str) -> Iterator[Deployed]:
    """A deployment of the test's own."""
    made = Deployed(nodes, namespace)
    yield made
    where = ("-n", namespace, "--ignore-not-found", "--timeout=60s")
    nodes.kubectl.run("delete", "moedeployment", NAME, *where, timeout=70.0)


def kept(deployed: Deployed) -> bool:
    """Whether Kubernetes says of a worker that something is in its way."""
    for component in (SHARD, "attention"):
        for pod in deployed.pods(component).values():
            status = pod["status"]
            containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
            reasons = [each.get("state", {}).get("waiting", {}).get("reason") for each in containers]
            unscheduled = [each for each in status.get("conditions", ()) if each.get("reason") == "Unschedulable"]
            if unscheduled or {"ErrImagePull", "ImagePullBackOff"}.intersection(reasons):
                return True
    return False


@pytest.mark.parametrize("what", KEPT)
def test_what_keeps_pods_is_told_with_the_field(alone: Deployed, figures: Figures, what: str) -> None:
    more, reason, field = KEPT[what]
    alone.objects.apply(NAME, spec(1) | more)
    try:
        alone.objects.wait("a pod that is kept", lambda: kept(alone), KEPT_SECONDS)
        begun = time.monotonic()
        alone.objects.wait_condition(NAME, "Degraded", "True", reason, KEPT_SECONDS)
        figures.add(f"{what}, until it is told", time.monotonic() - begun, TOLD_SECONDS)
        message = condition(alone.objects.get(NAME) or {}, "Degraded")["message"]
        print(message)
        assert field in message
        assert message.count("spec.") == 1 + message.count("imagePullSecrets")
    except BaseException:
        print(alone.told())
        raise


def test_a_shard_that_asks_for_a_gpu_runs_where_there_is_one(nodes: Nodes, alone: Deployed, figures: Figures) -> None:
    kubectl, node = nodes.kubectl, nodes.names[-1]

    def declare(step: Json) -> None:
        kubectl.run("patch", "node", node, "--subresource=status", "--type=json", "-p", json.dumps([step]))

    declare({"op": "add", "path": CAPACITY, "value": "1"})
    try:
        begun = time.monotonic()
        alone.objects.apply(NAME, spec(1) | {"experts": {"shards": 1, "resources": {"gpus": 1}}})
        while (missing := alone.first_token()) is not None:
            if time.monotonic() > begun + TOKEN_SECONDS:
                pytest.fail(f"waited {TOKEN_SECONDS:.0f} s for a token: {missing}\n{alone.told()}")
            time.sleep(0.5)
        figures.add("a shard with a GPU, until the first token", time.monotonic() - begun)
        (pod,) = alone.pods(SHARD).values()
        assert pod["spec"]["containers"][0]["resources"]["limits"][GPU] == "1"
        assert pod["spec"]["nodeName"] == node
    finally:
        declare({"op": "remove", "path": CAPACITY})
