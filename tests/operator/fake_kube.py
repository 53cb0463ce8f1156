"""The edge to Kubernetes in memory: objects by kind and name, without admission and owners.

Of managed fields it knows who made an ExpertPlacement, and so who set its decision until somebody else does."""

import base64
import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from merge_patch import merged

from moe_operator.api.names import ANNOTATION_APPLIED, GROUP
from moe_operator.kube.api import Json, Listing
from moe_operator.kube.errors import AlreadyExistsError, ConflictError, NotFoundError
from moe_operator.kube.resources import EVENTS, EXPERT_PLACEMENTS, MOE_DEPLOYMENTS, SECRETS, Resource

Key = tuple[str, str, str]
WRITTEN_BY_THE_OPERATOR = {
    "manager": "moe-operator",
    "operation": "Update",
    "fieldsV1": {"f:spec": {"f:content": {}, "f:decision": {}}},
}


def _copied(body: Any) -> Any:
    """Several times as fast as ``copy.deepcopy``."""
    return pickle.loads(pickle.dumps(body))


class FakeKube:
    """As ``KubeApi``. A deleted object stays while it has finalizers.

    Attributes:
        reads: how often each object was asked for, by kind and name.
        scaled: by whom, and to how many, by the subresource scale.
    """

    def __init__(self) -> None:
        self.objects: dict[Key, Json] = {}
        self.reads: Counter[tuple[str, str]] = Counter()
        self.scaled: list[tuple[str, int]] = []
        self._writes = 0

    def put(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        """An object as somebody else made or changed it."""
        metadata = body["metadata"]
        return self._store((resource.plural, metadata["namespace"], metadata["name"]), dict(body))

    def moe(self, name: str = "tiny", namespace: str = "team") -> Json:
        return self.objects[MOE_DEPLOYMENTS.plural, namespace, name]

    def exists(self, resource: Resource, name: str, namespace: str = "team") -> bool:
        return (resource.plural, namespace, name) in self.objects

    def events(self) -> list[Json]:
        """All of them, in the order in which they were told."""
        return [body for (plural, _, _), body in self.objects.items() if plural == EVENTS.plural]

    def reasons(self) -> list[str]:
        """Of all Events, in that order."""
        return [event["reason"] for event in self.events()]

    def secret(self, name: str, use: str | None = None, addresses: str | None = None, **values: str) -> None:
        """A Secret of the user's, in namespace ``team``."""
        metadata: Json = {"name": name, "namespace": "team", "labels": {"moe-operator.io/use": use} if use else {}}
        if addresses is not None:
            metadata["annotations"] = {"moe-operator.io/allowed-addresses": addresses}
        data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.put(SECRETS, {"kind": "Secret", "metadata": metadata, "data": data})

    def drop(self, resource: Resource, name: str, namespace: str = "team") -> None:
        """Somebody deletes it."""
        del self.objects[resource.plural, namespace, name]

    async def get(self, resource: Resource, namespace: str, name: str) -> Json:
        self.reads[resource.plural, name] += 1
        try:
            return _copied(self.objects[resource.plural, namespace, name])
        except KeyError:
            raise NotFoundError(f"no {resource.kind} {namespace}/{name}", 404) from None

    async def get_metadata(self, resource: Resource, namespace: str, name: str) -> Json:
        return (await self.get(resource, namespace, name))["metadata"]

    def listing(self, resource: Resource, namespace: str | None = None) -> Listing:
        """All as they are now."""
        found = [body for (plural, ns, _), body in self.objects.items() if plural == resource.plural]
        items = [_copied(body) for body in found if namespace in (None, body["metadata"]["namespace"])]
        return Listing(items, str(self._writes))

    async def list(self, resource: Resource, namespace: str | None = None) -> Listing:
        return self.listing(resource, namespace)

    async def create(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        if self.exists(resource, body["metadata"]["name"], body["metadata"]["namespace"]):
            raise AlreadyExistsError(f"{resource.kind} {body['metadata']['name']} exists", 409)
        if resource == EXPERT_PLACEMENTS:
            body = {**body, "metadata": {**body["metadata"], "managedFields": [WRITTEN_BY_THE_OPERATOR]}}
        return self.put(resource, body)

    async def replace(self, resource: Resource, body: Mapping[str, Any], subresource: str | None = None) -> Json:
        metadata = body["metadata"]
        live = await self.get(resource, metadata["namespace"], metadata["name"])
        self._check(live, metadata)
        return self.put(resource, {**live, "status": body["status"]} if subresource else body)

    async def merge_patch(self, resource: Resource, namespace: str, name: str, patch: Mapping[str, Any]) -> Json:
        live = await self.get(resource, namespace, name)
        self._check(live, patch.get("metadata", {}))
        return self.put(resource, merged(live, patch))

    async def json_patch(
        self, resource: Resource, namespace: str, name: str, steps: Sequence[Mapping[str, Any]]
    ) -> Json:
        live = await self.get(resource, namespace, name)
        for step in steps:
            *parents, last = (int(part) if part.isdecimal() else part for part in step["path"].split("/")[1:])
            at: Any = live
            for parent in parents:
                at = at[parent]
            if step["op"] == "test":
                assert at[last] == step["value"], step
            else:
                at[last] = step["value"]
        return self.put(resource, live)

    async def apply(self, resource: Resource, body: Mapping[str, Any]) -> Json:
        live = await self.get(resource, body["metadata"]["namespace"], body["metadata"]["name"])
        whole, told = merged(live, body), body["metadata"].get("annotations", {})
        if ANNOTATION_APPLIED in told:  # an annotation of a child that is applied no more goes
            gone = {key for key in whole["metadata"]["annotations"] if key.startswith(f"{GROUP}/")} - told.keys()
            annotations = {key: value for key, value in whole["metadata"]["annotations"].items() if key not in gone}
            whole = {**whole, "metadata": {**whole["metadata"], "annotations": annotations}}
        return self.put(resource, whole)

    async def scale(
        self, resource: Resource, namespace: str, name: str, replicas: int, version: str, manager: str
    ) -> None:
        live = await self.get(resource, namespace, name)
        self._check(live, {"resourceVersion": version})
        self.scaled.append((manager, replicas))
        experts = {**live["spec"]["experts"], "shards": replicas}
        metadata = {**live["metadata"], "generation": live["metadata"].get("generation", 1) + 1}
        self.put(resource, {**live, "metadata": metadata, "spec": {**live["spec"], "experts": experts}})

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        uid: str,
        version: str | None = None,
        grace_seconds: int | None = None,
    ) -> None:
        wanted = {"uid": uid} | ({"resourceVersion": version} if version else {})
        self._check(await self.get(resource, namespace, name), wanted)
        self.drop(resource, name, namespace)

    def _store(self, key: Key, body: Json) -> Json:
        self._writes += 1
        body = _copied(body)
        uid = "u-1" if key[0] == MOE_DEPLOYMENTS.plural else f"u-{key[0]}-{key[2]}"
        if body.get("endpoints") == []:
            body["endpoints"] = None  # as the API server gives it back
        body["metadata"] |= {"resourceVersion": str(self._writes), "uid": body["metadata"].get("uid", uid)}
        self.objects[key] = body
        if body["metadata"].get("deletionTimestamp") and not body["metadata"].get("finalizers"):
            del self.objects[key]
        return _copied(body)

    @staticmethod
    def _check(live: Json, wanted: Mapping[str, Any]) -> None:
        for field in ("uid", "resourceVersion"):
            if wanted.get(field, live["metadata"][field]) != live["metadata"][field]:
                raise ConflictError(f"{field} is {live['metadata'][field]}", 409)
