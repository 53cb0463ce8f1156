"""Status and finalizer of a MoEDeployment on a real API server."""

import pytest
from placement_objects import content, manifest, moved

from moe_dev.kube import Kubectl
from moe_operator.api import Condition, ConditionType, MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import ConflictError, NotFoundError
from moe_operator.kube.objects import set_cleanup_finalizer, write_status
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS

pytestmark = pytest.mark.e2e

STATUS = MoEDeploymentStatus(
    observed_generation=1,
    shards=2,
    conditions=(
        Condition(
            type=ConditionType.READY,
            status="False",
            observed_generation=1,
            last_transition_time="2026-01-02T03:04:05Z",
            reason=Reason.DEPLOYING_CORE,
            message="the core application is starting",
        ),
    ),
)


async def test_a_status_is_replaced_whole_and_written_only_when_it_changes(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    kube.run("label", "moe", "tiny", "-n", namespace, "team=a")
    live = await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    first = await write_status(client, live, STATUS)
    assert MoEDeployment.parse(first).status == STATUS
    second = await write_status(client, first, STATUS)
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    third = await write_status(client, second, MoEDeploymentStatus(ready_shards=1))
    assert third["status"] == {"readyShards": 1, "conditions": []}
    assert third["spec"] == live["spec"]
    assert third["metadata"]["labels"] == {"team": "a"}


async def test_a_status_decided_on_an_old_object_is_refused(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    stale = await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    kube.run("scale", "moe", "tiny", "-n", namespace, "--replicas=3")
    with pytest.raises(ConflictError, match="moedeployments/tiny/status"):
        await write_status(client, stale, STATUS)


async def test_what_was_decided_on_since_is_not_deleted(client: KubeClient, kube: Kubectl, namespace: str) -> None:
    kube.apply(manifest(content(moved()), namespace=namespace))
    before = (await client.get(EXPERT_PLACEMENTS, namespace, "tiny-r2"))["metadata"]
    kube.run("patch", "xp", "tiny-r2", "-n", namespace, "--type=merge", '-p={"spec":{"decision":"Approved"}}')
    with pytest.raises(ConflictError):
        await client.delete(EXPERT_PLACEMENTS, namespace, "tiny-r2", before["uid"], before["resourceVersion"])
    now = (await client.get(EXPERT_PLACEMENTS, namespace, "tiny-r2"))["metadata"]
    await client.delete(EXPERT_PLACEMENTS, namespace, "tiny-r2", now["uid"], now["resourceVersion"])
    with pytest.raises(NotFoundError):
        await client.get(EXPERT_PLACEMENTS, namespace, "tiny-r2")


async def test_the_finalizer_comes_and_goes_beside_those_of_others(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    kube.run("patch", "moe", "tiny", "-n", namespace, "--type=merge", '-p={"metadata":{"finalizers":["their.io/one"]}}')
    live = await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    added = await set_cleanup_finalizer(client, live, True)
    assert added["metadata"]["finalizers"] == ["their.io/one", CLEANUP_FINALIZER]
    assert await set_cleanup_finalizer(client, added, True) is added
    with pytest.raises(ConflictError):
        await set_cleanup_finalizer(client, live, True)
    removed = await set_cleanup_finalizer(client, added, False)
    assert removed["metadata"]["finalizers"] == ["their.io/one"]
    kube.run("patch", "moe", "tiny", "-n", namespace, "--type=merge", '-p={"metadata":{"finalizers":null}}')


async def test_deletion_waits_for_the_finalizer_and_then_the_object_is_gone(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    await set_cleanup_finalizer(client, await client.get(MOE_DEPLOYMENTS, namespace, "tiny"), True)
    kube.run("delete", "moe", "tiny", "-n", namespace, "--wait=false")
    live = await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    assert MoEDeployment.parse(live).deleting
    live = await write_status(client, live, STATUS)
    await set_cleanup_finalizer(client, live, False)
    with pytest.raises(NotFoundError):
        await client.get(MOE_DEPLOYMENTS, namespace, "tiny")
    with pytest.raises(NotFoundError):
        await write_status(client, live, MoEDeploymentStatus())
