"""Objects that belong to a MoEDeployment: made once, repaired when they drift, never taken from anybody else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from moe_operator.api.deployment import MoEDeployment
from moe_operator.api.names import ANNOTATION_APPLIED, FIELD_MANAGER, child_labels
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import AlreadyExistsError, ConflictError, NameConflictError, NotFoundError
from moe_operator.kube.managed_fields import upgraded
from moe_operator.kube.resources import Resource


def child_metadata(owner: MoEDeployment, name: str, component: str) -> Json:
    """Metadata of a child: its name, labels, and the owner with whom it goes."""
    return {
        "name": name,
        "namespace": owner.metadata.namespace,
        "labels": child_labels(owner.metadata.name, component),
        "ownerReferences": [owner_reference(owner)],
    }


def owner_reference(owner: MoEDeployment, controller: bool = True) -> Json:
    """That by which an object goes with its owner; an object has one controller at most.

    Without ``blockOwnerDeletion``: to set it takes a right on the owner's finalizers in some clusters, and nobody has
    to wait for what goes with it.
    """
    return {
        "apiVersion": owner.api_version,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": controller,
    }


async def find_child(api: KubeApi, owner: MoEDeployment, resource: Resource, name: str) -> Json | None:
    """The child, or None.

    Raises:
        NameConflictError: an object of that name is somebody else's.
    """
    try:
        live = await api.get(resource, owner.metadata.namespace, name)
    except NotFoundError:
        return None
    _check_ours(owner, live)
    return live


async def apply_child(api: KubeApi, owner: MoEDeployment, resource: Resource, manifest: Mapping[str, Any]) -> Json:
    """Make the live object say what ``manifest`` (with ``child_metadata``) says; no write if it already does.

    Raises:
        NameConflictError: an object of that name is somebody else's.
        ConflictError: it changed or went in between; reconcile again.
    """
    wanted = _stamped(manifest)
    name = manifest["metadata"]["name"]
    live = await find_child(api, owner, resource, name)
    if live is None:
        try:
            return await api.create(resource, wanted)
        except AlreadyExistsError as error:
            raise NameConflictError(_conflict(owner, resource.kind, name, "appeared this moment")) from error
    if _covers(live, wanted):
        return live
    try:
        live = await _make_removable(api, resource, live)
        return await api.apply(resource, _for_this_object(wanted, live["metadata"]["uid"]))
    except NotFoundError as error:  # the collector came to what a predecessor left
        raise ConflictError(str(error), error.status) from error


def _check_ours(owner: MoEDeployment, live: Json) -> None:
    metadata = live["metadata"]
    controllers = [ref for ref in metadata.get("ownerReferences", []) if ref.get("controller")]
    if any(_is(ref, owner) for ref in controllers):
        return
    whose = (
        f"is controlled by {controllers[0]['kind']} {controllers[0]['name']}" if controllers else "has no controller"
    )
    raise NameConflictError(_conflict(owner, live["kind"], metadata["name"], whose))


def _is(reference: Json, owner: MoEDeployment) -> bool:
    """Whether it names ``owner``, or one of the same name that is gone: what was that one's the collector may not have
    come to yet, and where no collector runs it never will.
    """
    group = owner.api_version.partition("/")[0]
    names = reference["apiVersion"].partition("/")[0], reference["kind"], reference["name"]
    return names == (group, owner.kind, owner.metadata.name)


def _conflict(owner: MoEDeployment, kind: str, name: str, whose: str) -> str:
    return (
        f"{kind} {name!r} in namespace {owner.metadata.namespace!r} {whose}, and MoEDeployment "
        f"{owner.metadata.name!r} needs that name: delete or rename it, or rename the MoEDeployment"
    )


def _stamped(manifest: Mapping[str, Any]) -> Json:
    """With the digest of the manifest, which changes also when a field is dropped from it."""
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), ANNOTATION_APPLIED: digest}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


_EXACT = frozenset({"selector", "labelSelector", "podSelector", "namespaceSelector"})
"""To select by one more label is to select something else."""


def _covers(live: Any, wanted: Any) -> bool:
    """Whether ``live`` says all that ``wanted`` says; fields that others or defaults added are theirs.

    An empty list may be null or absent: the API server gives back ``endpoints: []`` of an EndpointSlice as null.
    """
    if isinstance(wanted, Mapping):
        return isinstance(live, Mapping) and all(
            (key in live and live[key] == value) if key in _EXACT else _covers(live.get(key), value)
            for key, value in wanted.items()
        )
    if wanted == []:
        return live in (None, [])
    if isinstance(wanted, list):
        return isinstance(live, list) and len(live) == len(wanted) and all(map(_covers, live, wanted))
    return bool(live == wanted)


async def _make_removable(api: KubeApi, resource: Resource, live: Json) -> Json:
    metadata = live["metadata"]
    fields = upgraded(metadata.get("managedFields", []), FIELD_MANAGER)
    if fields is None:
        return live
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "managedFields": fields}}
    return await api.merge_patch(resource, metadata["namespace"], metadata["name"], patch)


def _for_this_object(wanted: Json, uid: str) -> Json:
    """With the uid, so that the apply cannot make or change another object of the same name."""
    return {**wanted, "metadata": {**wanted["metadata"], "uid": uid}}
