"""What a real API server says to another number of shards, by spec or by the subresource."""

from copy import deepcopy
from typing import Any

import pytest
from applied import MODEL, know_the_model, manifest, patch, patch_status, refusal

from moe_dev.kube import Kubectl, KubectlError

pytestmark = pytest.mark.e2e


def test_scale_changes_shards_and_wakes_from_zero_to_one(installed: Kubectl, namespace: str) -> None:
    installed.apply(manifest(), namespace=namespace)
    installed.run("scale", "moe", "tiny", "--namespace", namespace, "--replicas=3")
    stored = installed.get("moe", "tiny", namespace)
    assert stored is not None
    assert stored["spec"]["experts"]["shards"] == 3
    # Autoscalers go from 0 to 1 first, whatever copies.min and the slots known may need.
    know_the_model(installed, namespace, slots=1)
    for shards in (0, 1):
        installed.run("scale", "moe", "tiny", "--namespace", namespace, f"--replicas={shards}")


def scale(kube: Kubectl, namespace: str, shards: int) -> None:
    kube.run("scale", "moe", "tiny", "--namespace", namespace, f"--replicas={shards}")


@pytest.mark.parametrize(
    ("experts", "slots", "shards", "sum_"),
    [
        ({"shards": 4, "copies": {"min": 2}}, 9, 3, ("3 x 9 = 27", "16 experts x 2 (copies.min) need 32", 4)),
        ({"shards": 4, "copies": {"min": 2}}, 99, 1, ("1 x 16 = 16", "16 experts x 2 (copies.min) need 32", 2)),
        ({"shards": 4, "slotsPerShard": 5}, 16, 3, ("3 x 5 = 15", "16 experts x 1 (copies.min) need 16", 4)),
    ],
)
def test_a_scale_below_what_holds_the_model_is_refused_with_the_sum(
    installed: Kubectl, namespace: str, experts: dict[str, Any], slots: int, shards: int, sum_: tuple[str, str, int]
) -> None:
    body = manifest(experts=experts)
    installed.apply(body, namespace=namespace)
    know_the_model(installed, namespace, slots)
    wished = deepcopy(body)
    wished["spec"]["experts"]["shards"] = shards
    with pytest.raises(KubectlError) as refused:
        scale(installed, namespace, shards)
    for said in (str(refused.value), refusal(installed, wished, namespace)):
        assert f"spec.experts.shards is {shards}: they have {sum_[0]} slots per layer, and {sum_[1]}" in said
        assert f"use at least {sum_[2]} shards" in said
    # More is nearer to enough; and what has too little may be written otherwise, and may go.
    scale(installed, namespace, 5)
    scale(installed, namespace, 4)
    know_the_model(installed, namespace, slots=1)
    patch(installed, namespace, {"metadata": {"finalizers": ["a.b/c"]}})
    patch(installed, namespace, {"spec": {"suspend": True}})
    patch_status(installed, namespace, readyShards=1)
    patch(installed, namespace, {"metadata": {"finalizers": None}})
    scale(installed, namespace, 6)
    scale(installed, namespace, 0)


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ({}, {"experts": {"shards": 1}}),
        ({"model": MODEL}, {"experts": {"shards": 1}}),
        ({"model": MODEL, "slotsPerShard": 4}, {"experts": {"shards": 1, "slotsPerShard": 32}, "suspend": True}),
        ({"model": MODEL, "slotsPerShard": 4}, {"experts": {"shards": 1}, "model": {"source": {"path": "other"}}}),
        ({"model": MODEL, "slotsPerShard": -(2**40)}, {"experts": {"shards": 1}}),
        ({"model": MODEL | {"experts": 2**62}, "slotsPerShard": 4}, {"experts": {"shards": 1}}),
        ({"model": MODEL | {"experts": 0}, "slotsPerShard": 4}, {"experts": {"shards": 1}}),
    ],
)
def test_what_the_sum_cannot_be_made_of_is_no_hindrance(
    installed: Kubectl, namespace: str, status: dict[str, Any], change: dict[str, Any]
) -> None:
    installed.apply(manifest(experts__copies__min=1), namespace=namespace)
    if status:
        patch_status(installed, namespace, **status)
    patch(installed, namespace, {"spec": change})
