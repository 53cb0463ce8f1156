"""The edge to Kubernetes: the few calls the operator makes. Tests put a fake here and keep everything above it real."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias

from moe_operator.kube.resources import Resource

Json: TypeAlias = dict[str, Any]
"""An object as the API server returns it."""


class Listing(NamedTuple):
    """All objects as they were at one moment.

    Attributes:
        items: as ``store.trimmed`` leaves them.
        version: resourceVersion of that moment; what happened later has a higher one.
    """

    items: list[Json]
    version: str


class KubeApi(Protocol):
    """Calls on namespaced objects; each is bounded in time and raises a ``KubeError``.

    Bodies carry apiVersion, kind, metadata.namespace and metadata.name. Where a body carries metadata.resourceVersion
    or metadata.uid, the write happens only if they are those of the live object, else ``ConflictError``.
    """

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """The object; ``NotFoundError`` if there is none."""

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Json:
        """The object's ``metadata`` alone, so that the rest is never sent; ``NotFoundError`` if there is none."""

    async def list(self, resource: Resource, namespace: str | None = None) -> Listing:
        """All objects of the namespace, or of all namespaces."""

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """A new object; ``AlreadyExistsError`` if there is one of that name."""

    async def replace(self, resource: Resource, body: Mapping[str, Any], subresource: str | None = None) -> Json:
        """Exactly ``body`` instead of what is there."""

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Json:
        """Change the fields that ``patch`` names (RFC 7386: null removes one, lists are replaced whole)."""

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """Server-side apply as the operator's field manager: take over the fields in ``body``, drop those it no
        longer has."""

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Ask for the deletion of this object and no other of its name."""
