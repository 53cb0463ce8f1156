"""The subresource scale on a real API server, beside manifests that are applied again and again."""

import json

import pytest

from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment
from moe_operator.api.names import AUTOSCALER_FIELD_MANAGER, SLEEP_FIELD_MANAGER
from moe_operator.api.status import AutoscalingStatus
from moe_operator.autoscale.ownership import foreign
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import ConflictError
from moe_operator.kube.resources import MOE_DEPLOYMENTS

pytestmark = pytest.mark.e2e


async def test_it_is_written_only_where_nobody_wrote_in_between(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    read = await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    version = read["metadata"]["resourceVersion"]
    await client.scale(MOE_DEPLOYMENTS, namespace, "tiny", 0, version, SLEEP_FIELD_MANAGER)
    assert (await client.get(MOE_DEPLOYMENTS, namespace, "tiny"))["spec"]["experts"]["shards"] == 0
    kube.run("scale", "moe", "tiny", "-n", namespace, "--replicas=3")
    with pytest.raises(ConflictError):
        await client.scale(MOE_DEPLOYMENTS, namespace, "tiny", 0, version, SLEEP_FIELD_MANAGER)
    assert (await client.get(MOE_DEPLOYMENTS, namespace, "tiny"))["spec"]["experts"]["shards"] == 3


def manifest(namespace: str, **experts: int) -> str:
    body = {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "tiny", "namespace": namespace},
        "spec": {
            "model": {"source": {"path": "models/tiny"}},
            "experts": {"slotsPerShard": 16, **experts},
            "runtime": {"rayCluster": {"dashboardURL": "http://127.0.0.1:1", "serveURL": "http://127.0.0.1:2"}},
        },
    }
    return json.dumps(body)


def server_side(kube: Kubectl, namespace: str, *options: str, **experts: int) -> None:
    """As a GitOps tool applies it."""
    options = ("--server-side", "--field-manager=gitops", *options)
    kube.run("apply", "--validate=strict", *options, "-f", "-", text=manifest(namespace, **experts))


def test_an_apply_that_omits_the_shards_leaves_them_to_whoever_scales(installed: Kubectl, namespace: str) -> None:
    def shards() -> int:
        return int(installed.run("get", "moe", "tiny", "-n", namespace, "-o", "jsonpath={.spec.experts.shards}"))

    server_side(installed, namespace)
    assert shards() == 1
    installed.run("scale", "moe", "tiny", "-n", namespace, "--replicas=3")
    server_side(installed, namespace, slotsPerShard=8)
    assert shards() == 3
    # The API server does not write down who scaled: one that names them has its way, without a conflict.
    server_side(installed, namespace, shards=2)
    assert shards() == 2
    # Then they are that manager's alone, and go back to the default once its manifest omits them: scale after that.
    server_side(installed, namespace)
    assert shards() == 1


async def test_who_scales_after_the_policy_is_known(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    before = AutoscalingStatus(shards=1)

    async def driver() -> str | None:
        (live,) = (await client.list(MOE_DEPLOYMENTS, namespace)).items
        moe = MoEDeployment.parse(live)
        return foreign(moe.metadata.managed_fields, moe.spec.experts.shards, before)

    assert await driver() is None
    version = (await client.get(MOE_DEPLOYMENTS, namespace, "tiny"))["metadata"]["resourceVersion"]
    await client.scale(MOE_DEPLOYMENTS, namespace, "tiny", 2, version, AUTOSCALER_FIELD_MANAGER)
    assert await driver() is None
    before = AutoscalingStatus(shards=2, wrote=True)
    kube.run("scale", "moe", "tiny", "-n", namespace, "--replicas=3")
    assert await driver() == "kubectl"
    hpa = ("--subresource=scale", "--field-manager=kube-controller-manager", "--type=merge")
    kube.run("patch", "moe", "tiny", "-n", namespace, *hpa, "-p", '{"spec":{"replicas":4}}')
    assert await driver() == "kube-controller-manager (a HorizontalPodAutoscaler)"
    kube.run("patch", "moe", "tiny", "-n", namespace, "--type=merge", "-p", '{"spec":{"experts":{"shards":5}}}')
    assert await driver() == "kubectl-patch"
