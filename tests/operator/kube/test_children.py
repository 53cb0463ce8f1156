"""Children on a real API server: made once, repaired, never taken from others."""

import base64
from typing import Any

import pytest

from moe_dev.kube import Kubectl
from moe_operator.api import MoEDeployment
from moe_operator.kube.children import apply_child, child_metadata, find_child
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import ConflictError, NameConflictError
from moe_operator.kube.resources import SECRETS

pytestmark = pytest.mark.e2e

ONE, TWO = (base64.b64encode(text).decode() for text in (b"one", b"two"))


def secret(owner: MoEDeployment, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": child_metadata(owner, "child", "test"), "data": data}


async def test_a_second_apply_of_the_same_writes_nothing(client: KubeClient, owner: MoEDeployment) -> None:
    first = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    second = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]
    assert first["metadata"]["ownerReferences"][0]["uid"] == owner.metadata.uid


async def test_a_field_dropped_from_the_manifest_is_dropped_from_the_object(
    client: KubeClient, owner: MoEDeployment
) -> None:
    """Twice: after the POST, whose fields are an Update, and after an apply."""
    await apply_child(client, owner, SECRETS, secret(owner, a=ONE, b=ONE, c=ONE))
    assert (await apply_child(client, owner, SECRETS, secret(owner, a=ONE, b=TWO)))["data"] == {"a": ONE, "b": TWO}
    live = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    assert live["data"] == {"a": ONE}
    assert {entry["operation"] for entry in live["metadata"]["managedFields"]} == {"Apply"}


async def test_drift_is_repaired_and_what_others_added_stays(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    foreign = f'{{"data": {{"a": "{TWO}", "theirs": "{TWO}"}}, "metadata": {{"labels": {{"their": "label"}}}}}}'
    kube.run("patch", "secret", "child", "-n", namespace, "--patch", foreign)
    live = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    assert live["data"] == {"a": ONE, "theirs": TWO}
    assert live["metadata"]["labels"]["their"] == "label"


async def test_an_object_without_controller_is_left_alone(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    kube.run("create", "secret", "generic", "child", "-n", namespace, "--from-literal=a=theirs")
    with pytest.raises(NameConflictError, match=r"Secret 'child' in namespace .* has no controller.*rename"):
        await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    live = kube.get("secret", "child", namespace)
    assert live is not None
    assert live["data"] == {"a": base64.b64encode(b"theirs").decode()}


async def test_the_child_of_another_is_left_alone(
    client: KubeClient, owner: MoEDeployment, other_owner: MoEDeployment
) -> None:
    await apply_child(client, other_owner, SECRETS, secret(other_owner, a=TWO))
    with pytest.raises(NameConflictError, match="is controlled by MoEDeployment other"):
        await find_child(client, owner, SECRETS, "child")


async def test_what_a_predecessor_of_the_same_name_left_is_taken_over(client: KubeClient, owner: MoEDeployment) -> None:
    """The garbage collector may not have come to it yet, and not every control plane runs one."""
    gone = owner.model_copy(update={"metadata": owner.metadata.model_copy(update={"uid": "of-the-predecessor"})})
    await client.create(SECRETS, secret(gone, a=ONE))
    try:
        live = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    except ConflictError:  # here it did, this moment
        live = await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    assert [reference["uid"] for reference in live["metadata"]["ownerReferences"]] == [owner.metadata.uid]
    assert live["data"] == {"a": ONE}


async def test_an_object_that_was_made_anew_meanwhile_is_not_written(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    stale = await client.get(SECRETS, namespace, "child")
    kube.run("delete", "secret", "child", "-n", namespace)
    kube.run("create", "secret", "generic", "child", "-n", namespace, "--from-literal=a=theirs")

    async def read_before_that(*_: Any) -> dict[str, Any]:
        return stale

    monkeypatch.setattr(client, "get", read_before_that)
    with pytest.raises(ConflictError):
        await apply_child(client, owner, SECRETS, secret(owner, a=TWO))


async def test_one_that_goes_while_it_is_written_is_a_conflict(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.create(SECRETS, secret(owner, a=ONE))
    stale = await client.get(SECRETS, namespace, "child")
    kube.run("delete", "secret", "child", "-n", namespace)

    async def read_before_that(*_: Any) -> dict[str, Any]:
        return stale

    monkeypatch.setattr(client, "get", read_before_that)
    with pytest.raises(ConflictError):
        await apply_child(client, owner, SECRETS, secret(owner, a=TWO))


async def test_children_go_with_their_owner(
    client: KubeClient, owner: MoEDeployment, kube: Kubectl, namespace: str
) -> None:
    """A collector that has not seen the kind before needs up to 30 s to take it up."""
    await apply_child(client, owner, SECRETS, secret(owner, a=ONE))
    kube.run("delete", "moe", "tiny", "-n", namespace)
    kube.run("wait", "--for=delete", "secret/child", "-n", namespace, "--timeout=90s", timeout=100)
