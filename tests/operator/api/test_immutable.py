"""What cannot change of an object that is there."""

import pytest
from applied import manifest, refusal

from moe_dev.kube import Kubectl

pytestmark = pytest.mark.e2e


def test_the_kind_of_runtime_cannot_change(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    said = refusal(installed, manifest(runtime={"kubeRay": {"image": "x"}}), namespace)
    assert "spec.runtime cannot change from one kind to another: create another MoEDeployment" in said


def test_a_mounted_source_changes_while_nothing_runs(installed: Kubectl, namespace: str) -> None:
    kube_ray = {"kubeRay": {"image": "x"}}
    one, other = ({"image": {"reference": name}} for name in "ab")
    installed.apply(manifest(runtime=kube_ray, model__source=one), namespace=namespace)
    said = refusal(installed, manifest(runtime=kube_ray, model__source=other), namespace)
    assert "a claim or an image that pods mount can change while nothing runs: set spec.experts.shards to 0" in said
    installed.apply(manifest(runtime=kube_ray, model__source=one, experts__shards=8), namespace=namespace)
    installed.apply(manifest(runtime=kube_ray, model__source=other, experts__shards=0), namespace=namespace)
    installed.apply(manifest(runtime=kube_ray, model__source=other), namespace=namespace)


def test_the_address_of_ray_cannot_change(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    said = refusal(installed, manifest(runtime__rayCluster__dashboardURL="http://10.0.0.1:8265"), namespace)
    assert "dashboardURL is immutable: it is 'http://127.0.0.1:8265' and cannot become 'http://10.0.0.1:8265'" in said
    assert "create another MoEDeployment" in said
    installed.apply(manifest(runtime__rayCluster__serveURL="http://127.0.0.1:9000"), namespace=namespace)
