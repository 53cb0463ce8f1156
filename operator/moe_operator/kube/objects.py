"""Writes on the operator's own kinds: the status, a MoEDeployment's finalizer; on the resourceVersion decided on."""

from __future__ import annotations

from moe_operator.api.base import StatusModel
from moe_operator.api.deployment import Identity
from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.resources import MOE_DEPLOYMENTS, Resource


async def write_status(api: KubeApi, live: Json, status: StatusModel, resource: Resource = MOE_DEPLOYMENTS) -> Json:
    """Replace the status of ``live``; no write if it is equal. (On ``/status`` the rest is kept by the API server.)

    Returns:
        The object as it then is.

    Raises:
        ConflictError: the object changed since ``live`` was read.
        NotFoundError: it is gone.
    """
    wanted = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    if live.get("status", {}) == wanted:
        return live
    metadata = {key: live["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": metadata,
        "status": wanted,
    }
    return await api.replace(resource, body, subresource="status")


async def set_cleanup_finalizer(api: KubeApi, live: Json, present: bool) -> Json:
    """Add or remove the operator's finalizer, leaving others' alone; no write if it is as wanted.

    Raises:
        ConflictError: the object changed since ``live`` was read.
        NotFoundError: it is gone.
    """
    metadata = live["metadata"]
    finalizers = list(metadata.get("finalizers", []))
    if (CLEANUP_FINALIZER in finalizers) == present:
        return live
    if present:
        finalizers.append(CLEANUP_FINALIZER)
    else:
        finalizers.remove(CLEANUP_FINALIZER)
    patch = {"metadata": {"resourceVersion": metadata["resourceVersion"], "finalizers": finalizers}}
    return await api.merge_patch(MOE_DEPLOYMENTS, metadata["namespace"], metadata["name"], patch)


async def version_as_judged(api: KubeApi, about: Identity) -> str | None:
    """The resourceVersion of a MoEDeployment that has the spec that ``about`` was read with, so that what was decided
    by it holds; None where it has another.

    Raises:
        NotFoundError: it is gone.
    """
    known = about.metadata
    metadata = (await api.get(MOE_DEPLOYMENTS, known.namespace, known.name))["metadata"]
    is_as_judged = (metadata["uid"], metadata.get("generation", 1)) == (known.uid, known.generation)
    return str(metadata["resourceVersion"]) if is_as_judged else None
