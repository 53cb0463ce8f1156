"""ExpertPlacements as somebody writes them, for tests."""

from typing import Any

from moe_operator.api import ExpertPlacement
from moe_operator.placements.content import content_of
from moe_placement import Placement, balanced_placement


def moved(layers: int = 2, experts: int = 8, shards: int = 2, slots: int = 4, copies: int = 1) -> Placement:
    """A placement that no computed one equals: each layer's experts in reverse."""
    computed = balanced_placement(layers, experts, (slots,) * shards, copies)
    return Placement.of(computed.slots[:, ::-1], computed.shard_slots, experts)


def content(placement: Placement, revision: int = 2, base: int = 1, digest: str = "sha256:0") -> dict[str, Any]:
    """``spec.content`` as in a manifest."""
    return content_of(placement, revision, base, digest).model_dump(mode="json", by_alias=True)


def manifest(body: dict[str, Any], deployment: str = "tiny", namespace: str = "team", **spec: Any) -> dict[str, Any]:
    """The object of a content."""
    return {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "ExpertPlacement",
        "metadata": {"name": f"{deployment}-r{body['revision']}", "namespace": namespace},
        "spec": {"deploymentRef": {"name": deployment}, "content": body, **spec},
    }


def stored(body: dict[str, Any], status: dict[str, Any] | None = None, **spec: Any) -> ExpertPlacement:
    """As the operator reads it."""
    raw = manifest(body, **spec)
    raw["metadata"]["uid"] = f"uid-{raw['metadata']['name']}"
    return ExpertPlacement.parse({**raw, "status": status or {}})
