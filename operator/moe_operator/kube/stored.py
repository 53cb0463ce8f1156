"""``KubeApi`` whose MoEDeployments, and their watched children, are read from stores instead of by a GET each time.

What the operator itself writes is in the store with the answer, before the watch tells of it: the next pass does not
act on what this one has changed. A store that lags behind shows itself by a conflict; where one repeats, the object is
asked for once, so that a slow watch cannot make a hot loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from moe_operator.kube.api import Json, KubeApi, Listing
from moe_operator.kube.errors import ConflictError, NotFoundError
from moe_operator.kube.resources import MOE_DEPLOYMENTS, Resource
from moe_operator.kube.store import ObjectStore


class StoredKube:
    """See ``KubeApi``; all other kinds, and all lists, go to ``api``.

    ``children``: stores of what bears the label of a child. An object that is not in one may lack the label alone, so
    that is asked for.
    """

    def __init__(
        self, api: KubeApi, store: ObjectStore, children: Mapping[Resource, ObjectStore] | None = None
    ) -> None:
        self._api = api
        self._store = store
        self._children = children or {}

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        """See ``KubeApi``; a MoEDeployment is what the store knows of it, and not to be changed."""
        if resource in self._children:
            known = self._children[resource].get(f"{namespace}/{name}")
            return known or await self._api.get(resource, namespace, name)
        if resource != MOE_DEPLOYMENTS:
            return await self._api.get(resource, namespace, name)
        live = self._store.get(f"{namespace}/{name}")
        if live is None:
            raise NotFoundError(f"no {resource.kind} {namespace}/{name}", 404)
        return live

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Json:
        """See ``KubeApi``."""
        return await self._api.get_metadata(resource, namespace, name)

    async def list(self, resource: Resource, namespace: str | None = None) -> Listing:
        """See ``KubeApi``."""
        return await self._api.list(resource, namespace)

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        return self._known(resource, await self._api.create(resource, body))

    async def replace(self, resource: Resource, body: Mapping[str, Any], subresource: str | None = None) -> Json:
        """See ``KubeApi``."""
        write = self._api.replace(resource, body, subresource)
        if resource != MOE_DEPLOYMENTS:
            return await write
        return await self._written(write, body["metadata"], body["metadata"]["namespace"], body["metadata"]["name"])

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        write = self._api.merge_patch(resource, namespace, name, patch)
        if resource != MOE_DEPLOYMENTS:
            return self._known(resource, await write)
        return await self._written(write, patch.get("metadata", {}), namespace, name)

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, steps: Sequence[Mapping[str, Any]]
    ) -> Json:
        """See ``KubeApi``."""
        return self._known(resource, await self._api.json_patch(resource, namespace, name, steps))

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """See ``KubeApi``."""
        return self._known(resource, await self._api.apply(resource, body))

    async def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, version: str, manager: str
    ) -> None:
        """See ``KubeApi``; the answer is no such object, so the watch tells of it."""
        await self._api.scale(resource, namespace, name, replicas, version, manager)

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
        await self._api.delete(resource, namespace, name, uid, version, grace_seconds)

    def _known(self, resource: Resource, answer: Json) -> Json:
        if resource in self._children:
            self._children[resource].put(answer)
        return answer

    async def _written(self, write: Awaitable[Json], based_on: Mapping[str, Any], namespace: str, name: str) -> Json:
        try:
            answer = await write
        except ConflictError:
            if self._store.conflicted(f"{namespace}/{name}", str(based_on.get("resourceVersion", ""))):
                await self._ask(namespace, name)
            raise
        except NotFoundError:
            await self._ask(namespace, name)
            raise
        self._store.put(answer)
        return answer

    async def _ask(self, namespace: str, name: str) -> None:
        """Put into the store what the API server says now."""
        try:
            self._store.put(await self._api.get(MOE_DEPLOYMENTS, namespace, name))
        except NotFoundError:
            known = self._store.get(f"{namespace}/{name}")
            if known:
                self._store.remove(known)
