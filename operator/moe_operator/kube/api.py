"""The edge to Kubernetes: the few calls the operator makes. Tests put a fake here and keep everything above it real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, steps: Sequence[Mapping[str, Any]]
    ) -> Json:
        """Change single entries of lists (RFC 6902); where a ``test`` among the steps fails, nothing is, and a
        ``KubeError`` says so."""

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """Server-side apply as the operator's field manager: take over the fields in ``body``, drop those it no
        longer has."""

    async def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, version: str, manager: str
    ) -> None:
        """Write its subresource scale as field manager ``manager``, where it still has this resourceVersion."""

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """Ask for the deletion of this object and no other of its name; with ``version`` only as it was then.

        ``grace_seconds``: of a pod, for how long it may take its leave; 0 removes the object at once, whatever becomes
        of its processes. Default: what the pod says.
        """
