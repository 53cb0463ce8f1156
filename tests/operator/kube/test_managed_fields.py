"""Tables for the step from Update to Apply, and who set a field."""

from typing import Any

import pytest
from placement_objects import content, manifest, moved

from moe_dev.kube import Kubectl
from moe_operator.kube.client import KubeClient
from moe_operator.kube.managed_fields import upgraded, was_set_by
from moe_operator.kube.resources import EXPERT_PLACEMENTS

ME = "moe-operator"


def entry(manager: str, operation: str, fields: dict[str, Any], subresource: str = "") -> dict[str, Any]:
    return {
        "manager": manager,
        "operation": operation,
        "fieldsV1": fields,
        **({"subresource": subresource} if subresource else {}),
    }


A: dict[str, Any] = {"f:data": {"f:a": {}}}
B: dict[str, Any] = {"f:data": {"f:b": {}}, "f:type": {}}
A_AND_B: dict[str, Any] = {"f:data": {"f:a": {}, "f:b": {}}, "f:type": {}}

TABLE: list[tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = [
    ([], None),
    ([entry("kubectl", "Update", A)], None),
    ([entry(ME, "Apply", A)], None),
    ([entry(ME, "Update", A, "status")], None),
    ([entry(ME, "Update", A)], [entry(ME, "Apply", A)]),
    ([entry(ME, "Update", A), entry(ME, "Apply", B)], [entry(ME, "Apply", A_AND_B)]),
    (
        [entry(ME, "Update", A), entry("kubectl", "Update", B), entry(ME, "Update", B, "status")],
        [entry("kubectl", "Update", B), entry(ME, "Update", B, "status"), entry(ME, "Apply", A)],
    ),
]


@pytest.mark.parametrize(("before", "after"), TABLE)
def test_upgraded(before: list[dict[str, Any]], after: list[dict[str, Any]] | None) -> None:
    assert upgraded(before, ME) == after
    if after is not None:
        assert upgraded(after, ME) is None


CONTENT: dict[str, Any] = {"f:spec": {"f:content": {"f:revision": {}}}}
DECISION: dict[str, Any] = {"f:spec": {"f:decision": {}}}


@pytest.mark.parametrize(
    ("fields", "set_by_me"),
    [
        ([], False),
        ([entry(ME, "Update", CONTENT)], True),
        ([entry("kubectl", "Update", CONTENT), entry(ME, "Update", DECISION)], False),
        ([entry("kubectl", "Update", DECISION), entry(ME, "Update", CONTENT)], True),
        ([entry(ME, "Update", CONTENT, "status")], False),
        ([entry(ME, "Update", {"f:spec": None})], False),
    ],
)
def test_who_set_a_field(fields: list[dict[str, Any]], set_by_me: bool) -> None:
    assert was_set_by(fields, ME, "f:spec", "f:content") is set_by_me


@pytest.mark.e2e
async def test_who_set_a_field_on_a_real_api_server(client: KubeClient, installed: Kubectl, namespace: str) -> None:
    mine, theirs = (manifest(content(moved(), revision, 0), namespace=namespace) for revision in (1, 2))
    await client.create(EXPERT_PLACEMENTS, mine)
    installed.apply(theirs)
    for name, ours in (("tiny-r1", True), ("tiny-r2", False)):
        await client.merge_patch(EXPERT_PLACEMENTS, namespace, name, {"spec": {"decision": "Approved"}})
        fields = (await client.get_metadata(EXPERT_PLACEMENTS, namespace, name))["managedFields"]
        assert was_set_by(fields, ME, "f:spec", "f:content") is ours
