"""A HorizontalPodAutoscaler, run by kube-controller-manager, scales the shards by an external metric."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_ray import FakeDirectory, FakeRay
from hpa import by_requests, external
from metrics_server import served
from moe_objects import Objects

from moe_dev.binaries import CONTROLLER_MANAGER, binary
from moe_dev.kube import Kubectl
from moe_dev.processes import Guarded

pytestmark = pytest.mark.e2e

PER_SHARD = 2


@contextmanager
def controller(kube: Kubectl, directory: Path) -> Iterator[None]:
    """Kubernetes' own controller, and no other."""
    command = [
        str(binary(CONTROLLER_MANAGER)),
        f"--kubeconfig={kube.kubeconfig}",
        "--controllers=horizontal-pod-autoscaler-controller",
        "--horizontal-pod-autoscaler-sync-period=1s",
        "--horizontal-pod-autoscaler-downscale-stabilization=1s",
        "--leader-elect=false",
        "--secure-port=0",
    ]
    process = Guarded.start("hpa", command, directory / "hpa.log")
    try:
        yield
    finally:
        process.stop()


def test_requests_scale_the_shards_up_and_down_and_0_is_left_alone(
    operator, objects: Objects, ray: FakeRay, directory: FakeDirectory, tmp_path: Path
) -> None:
    def runs(shards: int) -> Callable[[], bool]:
        return lambda: objects.status("tiny").get("readyShards") == shards

    def shards() -> int:
        return int((objects.get("tiny") or {})["spec"]["experts"]["shards"])

    directory.running = PER_SHARD
    objects.apply("tiny", ray.spec(shards=1))
    objects.wait_ready("tiny")
    kube, namespace = objects.kube, objects.namespace
    with (
        served(kube, namespace, tmp_path / "metrics", external(lambda: directory.running)),
        controller(kube, tmp_path),
    ):
        kube.apply(by_requests("tiny", 1, 4, str(PER_SHARD)), namespace=namespace)
        directory.running = 4 * PER_SHARD
        objects.wait("four shards", runs(4))
        directory.running = PER_SHARD
        objects.wait("one shard", runs(1))

        objects.scale("tiny", 0)
        objects.wait_condition("tiny", "Ready", "True", "Asleep")

        def rests() -> bool:
            told = kube.get("hpa", "tiny", namespace) or {}
            conditions = {each["type"]: each for each in told.get("status", {}).get("conditions", [])}
            return conditions.get("ScalingActive", {}).get("reason") == "ScalingDisabled"

        directory.running = 4 * PER_SHARD
        objects.wait("the HPA to leave it alone", rests)
        assert shards() == 0
        # As KEDA does it: from 0 to 1 by the scale, and the HPA goes on from there.
        objects.scale("tiny", 1)
        objects.wait("four shards again", runs(4))
