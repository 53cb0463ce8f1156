"""What a real API server says to an ExpertPlacement, and how it keeps a large one."""

import json
from typing import Any

import pytest
from placement_objects import content, manifest, moved

from moe_contract.report import MOST_PACES
from moe_dev.kube import Kubectl, KubectlError
from moe_operator.api import ExpertPlacement, Phase, PlacementConditionType

pytestmark = pytest.mark.e2e

BODY = content(moved())


def refusal(kube: Kubectl, body: dict[str, Any], namespace: str) -> str:
    with pytest.raises(KubectlError) as caught:
        kube.apply(body, namespace=namespace)
    return str(caught.value)


def of(namespace: str, deployment: str = "tiny", **fields: Any) -> dict[str, Any]:
    return manifest({**BODY, **fields}, deployment, namespace)


def decide(kube: Kubectl, namespace: str, decision: str) -> None:
    patch = json.dumps({"spec": {"decision": decision}})
    kube.run("patch", "xp", "tiny-r2", "-n", namespace, "--type=merge", "-p", patch)


def test_a_good_one_is_stored_pending_and_read_back(installed: Kubectl, namespace: str) -> None:
    installed.apply(of(namespace))
    live = installed.get("xp", "tiny-r2", namespace)
    assert live is not None
    assert live["spec"]["decision"] == "Pending"
    assert live["status"] == {"observedGeneration": -1}
    read = ExpertPlacement.parse(live)
    assert read.spec.content.model_dump(mode="json", by_alias=True) == BODY
    shown = installed.run("get", "moe-operator", "-n", namespace)
    assert " ".join(shown.split()[:9]) == "NAME DEPLOYMENT REV PHASE DECISION BALANCE FAN-OUT MOVES BYTES"


REFUSED = [
    # what changes in a good content, what the answer must say: the field, the value and the cure
    ({"revision": 1, "baseRevision": 1}, ["revision is 1 and its baseRevision 1", "take one above it"]),
    ({"revision": 1002}, ["revision is 1002 and its baseRevision 1", "by at most 1000"]),
    ({"experts": 9}, ["2 shards x 4 slotsPerShard hold fewer than 9 experts", "use more shards"]),
    ({"experts": 0}, ["spec.content.experts", "greater than or equal to 1"]),
    ({"shards": 3}, ["spec.content.layers: each must have 3 x 4 entries", "write - for an empty slot"]),
    ({"shards": 1025}, ["spec.content.shards", "less than or equal to 1024"]),
    ({"slotsPerShard": 100000}, ["2 layers x 2 shards x 100000 slotsPerShard", "200000 slots", "use fewer slots"]),
    ({"layers": []}, ["spec.content.layers", "at least 1 items"]),
    ({"layers": ["0 1 2 3 4 5 6"]}, ["each must have 2 x 4 entries"]),
    ({"layers": ["0 1 2 3 4 5 6 x"]}, ["spec.content.layers[0]", "should match"]),
    ({"layers": ["0 1 2 3 4 5  6 7"]}, ["spec.content.layers[0]", "should match"]),
    ({"layers": ["0 1 2 3 4 5 6 -7"]}, ["spec.content.layers[0]", "should match"]),
    ({"layers": ["-"] * 257}, ["spec.content.layers", "must have at most 256 items"]),
    ({"modelDigest": "0"}, ["spec.content.modelDigest", "should match"]),
    ({"copies": 2}, ['unknown field "spec.content.copies"']),
]


@pytest.mark.parametrize(("fields", "said"), REFUSED, ids=lambda value: str(value)[:60])
def test_what_arithmetic_can_tell_is_refused(installed: Kubectl, fields: dict[str, Any], said: list[str]) -> None:
    answer = refusal(installed, of("default", **fields), "default")
    assert [part for part in said if part not in answer] == [], answer


@pytest.mark.parametrize(
    ("name", "deployment"),
    [("tiny-r3", "tiny"), ("other-r2", "tiny"), ("tiny", "tiny"), ("tiny-r02", "tiny"), ("a-r1-r2", "a")],
)
def test_the_name_is_that_of_deployment_and_revision(installed: Kubectl, name: str, deployment: str) -> None:
    body = of("default", deployment)
    body["metadata"]["name"] = name
    said = f"metadata.name is '{name}', but it is of revision 2 of the MoEDeployment '{deployment}': name it"
    assert f"{said} '{deployment}-r2'" in refusal(installed, body, "default")


def test_a_deployment_whose_name_looks_like_a_revision(installed: Kubectl, namespace: str) -> None:
    installed.apply(of(namespace, "a-r1"))
    assert installed.get("xp", "a-r1-r2", namespace) is not None


@pytest.mark.parametrize("decision", ["Approved", "Rejected"])
def test_nobody_creates_one_that_is_decided(installed: Kubectl, decision: str) -> None:
    body = of("default")
    body["spec"]["decision"] = decision
    answer = refusal(installed, body, "default")
    assert f"spec.decision is '{decision}': an ExpertPlacement is created Pending" in answer


@pytest.mark.parametrize(("decision", "other"), [("Approved", "Rejected"), ("Rejected", "Approved")])
def test_a_decision_is_made_once(installed: Kubectl, namespace: str, decision: str, other: str) -> None:
    installed.apply(of(namespace))
    decide(installed, namespace, decision)
    for again in (other, "Pending"):
        with pytest.raises(KubectlError, match=f"spec.decision is '{decision}' and cannot become '{again}'"):
            decide(installed, namespace, again)
    decide(installed, namespace, decision)
    with pytest.raises(KubectlError, match='Unsupported value: "Perhaps"'):
        decide(installed, namespace, "Perhaps")


def tell_phase(kube: Kubectl, namespace: str, phase: str) -> None:
    patch = json.dumps({"status": {"phase": phase}})
    kube.run("patch", "xp", "tiny-r2", "-n", namespace, "--type=merge", "--subresource=status", "-p", patch)


@pytest.mark.parametrize("phase", Phase)
def test_what_is_over_is_approved_no_more(installed: Kubectl, namespace: str, phase: Phase) -> None:
    installed.apply(of(namespace))
    tell_phase(installed, namespace, phase)
    if not phase.is_end:
        decide(installed, namespace, "Approved")
    else:
        said = f"spec.decision cannot become Approved any more: 'tiny-r2' is {phase}, its conditions say why; approve"
        with pytest.raises(KubectlError, match=said):
            decide(installed, namespace, "Approved")
        decide(installed, namespace, "Rejected")
    # Of what was decided on, whatever is told.
    for each in (Phase.ACTIVE, Phase.SUPERSEDED):
        tell_phase(installed, namespace, each)


def test_content_and_deployment_do_not_change(installed: Kubectl, namespace: str) -> None:
    installed.apply(of(namespace))
    assert "spec.content is immutable: its revision 2 stays as it is" in refusal(
        installed, of(namespace, modelDigest="sha256:1"), namespace
    )
    other = of(namespace)
    other["spec"]["deploymentRef"]["name"] = "other"
    assert "spec.deploymentRef is immutable: it is 'tiny' and cannot become 'other'" in refusal(
        installed, other, namespace
    )


def full_status() -> dict[str, Any]:
    """With all that is ever told, in many words."""
    token = dict.fromkeys(("rows", "tokens", "lowerMicroseconds", "medianMicroseconds", "upperMicroseconds"), 10**6)
    figures = {
        "balance": "0.9876", "fanOut": "12.3456", "nodeFanOut": "3.4567", "besideAttention": True, "rows": 10**9,
        "rowsPerSecond": "1.234e+05", "latency": [token] * MOST_PACES, "context": "1.234e+04",
    }  # fmt: skip
    conditions = [
        {"type": kind, "status": "True", "reason": "Some", "message": "figures " * 80, "observedGeneration": 2}
        | {"lastTransitionTime": "2026-01-02T03:04:05Z"}
        for kind in PlacementConditionType
    ]
    return {
        "observedGeneration": 2, "phase": "Active", "origin": "Operator", "approvedBy": "Operator",
        "why": "figures " * 80, "price": {"moves": 16704, "bytes": 10**12, "seconds": "1234.5"},
        "balance": "0.9876", "fanOut": "12.3456", "progress": {"copied": 16704, "total": 16704, "epoch": 10**6},
        "conditions": conditions, **dict.fromkeys(("predicted", "before", "measured"), figures),
    }  # fmt: skip


@pytest.mark.long
def test_a_large_one_takes_less_than_100_kb_and_a_largest_one_is_taken(installed: Kubectl, namespace: str) -> None:
    body = manifest(content(moved(58, 256, 32, 9)), namespace=namespace)
    installed.run("apply", "--server-side", "-f", "-", text=json.dumps(body))
    decide(installed, namespace, "Approved")
    patch = json.dumps({"status": full_status()})
    installed.run("patch", "xp", "tiny-r2", "-n", namespace, "--type=merge", "--subresource=status", "-p", patch)
    live = installed.run(
        "get", "--raw", f"/apis/moe-operator.io/v1alpha1/namespaces/{namespace}/expertplacements/tiny-r2"
    )
    print(f"58 layers x 288 slots: {len(live)} bytes as stored")
    assert len(live) <= 100_000
    largest = manifest(content(moved(61, 512, 96, 34, copies=6)), "large", namespace)
    installed.run("create", "-f", "-", text=json.dumps(largest))
