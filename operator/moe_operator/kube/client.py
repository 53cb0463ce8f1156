"""The edge over HTTP: ``KubeApi`` on a ``Connection``, which knows credentials and transport."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from moe_operator.api.names import FIELD_MANAGER
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.connection import Connection, Request
from moe_operator.kube.credentials import Credentials
from moe_operator.kube.errors import (
    AlreadyExistsError,
    ConflictError,
    ForbiddenError,
    KubeError,
    NotFoundError,
    UnauthorizedError,
)
from moe_operator.kube.resources import EXPERT_PLACEMENTS, Resource
from moe_operator.kube.store import trimmed

REQUEST_SECONDS = 5.0
"""Bound on one call. A write of a leader must be over before its Lease can be taken (see ``leader.LeaseSettings``)."""

PAGE_SIZE = 100
PLACEMENTS_PAGE_SIZE = 8
"""Objects of one answer; an ExpertPlacement may be as large as the API server takes, more than a megabyte."""

_METADATA_ONLY = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
_JSON_PATCH = "application/json-patch+json"
_MERGE_PATCH = "application/merge-patch+json"
_APPLY_PATCH = "application/apply-patch+yaml"


def _no_fence() -> None:
    """Whoever needs no leadership to write."""


class KubeClient:
    """``KubeApi`` on a real API server; an async context manager.

    Args:
        connection: shared with whoever else calls the same API server.
        fence: called before each write; raises when this process may not write.
        request_seconds: bound on each call.
    """

    def __init__(
        self, connection: Connection, fence: Callable[[], None] = _no_fence, request_seconds: float = REQUEST_SECONDS
    ) -> None:
        self.connection = connection
        self._fence = fence
        self._seconds = request_seconds

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, request_seconds: float = REQUEST_SECONDS) -> Self:
        """With the credentials of ``kubeconfig``, else of ``$KUBECONFIG`` or ~/.kube/config, else of the pod.

        Raises:
            CredentialsError: there are none, or they cannot be read.
        """
        connection = Connection(Credentials(kubeconfig))
        try:
            await connection.open()
        except BaseException:
            await connection.close()
            raise
        return cls(connection, request_seconds=request_seconds)

    def fenced(self, fence: Callable[[], None]) -> KubeClient:
        """The same connection, for writes that only a leader may make."""
        return KubeClient(self.connection, fence, self._seconds)

    async def close(self) -> None:
        """Close the connections."""
        await self.connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """See ``KubeApi``."""
        return await self._call("GET", resource.path(namespace, name))

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Json:
        """See ``KubeApi``."""
        found = await self._call("GET", resource.path(namespace, name), accept=_METADATA_ONLY)
        metadata: Json = found["metadata"]
        return metadata

    async def list(self, resource: Resource, namespace: str | None = None) -> Listing:
        """See ``KubeApi``; read in pages, all of the moment of the first."""
        size = PLACEMENTS_PAGE_SIZE if resource == EXPERT_PLACEMENTS else PAGE_SIZE
        return await self._pages(resource, namespace, {"limit": str(size)}, trimmed)

    async def list_labelled(
        self, resource: Resource, labels: str, keep: Callable[[Json], Json], namespace: str | None = None
    ) -> Listing:
        """Objects of the namespace, or of all, that a label selector matches (the empty one: all); in pages, of which
        each object is kept as ``keep`` leaves it."""
        return await self._pages(resource, namespace, {"limit": str(PAGE_SIZE), "labelSelector": labels}, keep)

    async def _pages(
        self,
        resource: Resource,
        namespace: str | None,
        query: dict[str, str],
        keep: Callable[[Json], Json],
    ) -> Listing:
        """``keep``: what stays of each object, as soon as its page is there."""
        items: list[Json] = []
        while True:
            page = await self._call("GET", resource.path(namespace), query=query)
            items += map(keep, page["items"])
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return Listing(items, page["metadata"].get("resourceVersion", ""))

    async def try_list(self, resource: Resource, namespace: str | None = None) -> None:
        """Raises what a listing would, and reads one object at most."""
        await self._call("GET", resource.path(namespace), query={"limit": "1"})

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        return await self._write("POST", resource.path(body["metadata"]["namespace"]), body)

    async def replace(self, resource: Resource, body: Mapping[str, Any], subresource: str | None = None) -> Json:
        """See ``KubeApi``."""
        metadata = body["metadata"]
        return await self._write("PUT", resource.path(metadata["namespace"], metadata["name"], subresource), body)

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        return await self._write("PATCH", resource.path(namespace, name), patch, content=_MERGE_PATCH)

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, steps: Sequence[Mapping[str, Any]]
    ) -> Json:
        """See ``KubeApi``."""
        return await self._write("PATCH", resource.path(namespace, name), [*steps], content=_JSON_PATCH)

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        path = resource.path(body["metadata"]["namespace"], body["metadata"]["name"])
        return await self._write("PATCH", path, body, content=_APPLY_PATCH, query={"force": "true"})

    async def get_scale(self, resource: Resource, namespace: str, name: str) -> Json:
        """Its subresource scale, of API autoscaling/v1."""
        return await self._call("GET", resource.path(namespace, name, "scale"))

    async def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, version: str, manager: str
    ) -> None:
        """See ``KubeApi``."""
        body = {
            "apiVersion": "autoscaling/v1",
            "kind": "Scale",
            "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
            "spec": {"replicas": replicas},
        }
        query = {"fieldManager": manager}
        await self._write("PUT", resource.path(namespace, name, "scale"), body, query=query)

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        """See ``KubeApi``."""
        preconditions = {"uid": uid} | ({"resourceVersion": version} if version else {})
        grace = {} if grace_seconds is None else {"gracePeriodSeconds": grace_seconds}
        options = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions, **grace}
        await self._write("DELETE", resource.path(namespace, name), options)

    async def _write(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        content: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        self._fence()
        query = {"fieldManager": FIELD_MANAGER, **(query or {})}
        return await self._call(method, path, body, content, query=query, before_again=self._fence)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        content: str = "application/json",
        accept: str = "application/json",
        query: Mapping[str, str] | None = None,
        before_again: Callable[[], None] = _no_fence,
    ) -> Json:
        headers = {"Accept": accept, "Content-Type": content}
        request = Request(method, path, headers, query or {}, body)
        answer = await self.connection.send(request, self._seconds, before_again)
        if not 200 <= answer.status <= 299:
            raise _refusal(method, path, answer.status, answer.body)
        return _object(method, path, answer.body)


def _object(method: str, path: str, text: bytes) -> Json:
    try:
        answer: Json = json.loads(text)
    except ValueError as error:
        said = text[:200].decode(errors="replace")
        raise KubeError(
            f"{method} {path}: {said!r} is not JSON: is the server's address that of Kubernetes?"
        ) from error
    return answer


def _refusal(method: str, path: str, status: int, text: bytes) -> KubeError:
    """The error for an answer that is not a success; its message is the API server's own."""
    try:
        answer = json.loads(text)
        said, reason = str(answer["message"]), answer.get("reason")
    except (ValueError, KeyError, TypeError, AttributeError):
        said, reason = text[:200].decode(errors="replace"), None
    message = f"{method} {path}: {said}"
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExistsError(message, status)
    kinds: dict[int, type[KubeError]] = {
        401: UnauthorizedError,
        403: ForbiddenError,
        404: NotFoundError,
        409: ConflictError,
    }
    return kinds.get(status, KubeError)(message, status)
