"""ExpertPlacements as somebody writes them, for tests."""

from typing import Any

from moe_operator.api import ExpertPlacement, PlacementContent
from moe_operator.placements.content import content_of
from moe_placement import Placement, balanced_placement

GOOD = {
    "revision": 2,
    "baseRevision": 1,
    "modelDigest": "sha256:0",
    "experts": 4,
    "shards": 2,
    "slotsPerShard": 3,
    "layers": ["0 1 - 2 3 0", "3 2 1 0 - -"],
}


def small(**fields: Any) -> PlacementContent:
    """A content that is in order but for ``fields``; read without the CRD's rules, as what an older CRD let through."""
    return PlacementContent.model_validate(GOOD | fields)


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
