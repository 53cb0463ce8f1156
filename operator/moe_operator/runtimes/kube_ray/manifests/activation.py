"""The EndpointSlice by which the Service of a deployment that sleeps leads requests to the activator. Pure.

The Service selects no pod then, so that Kubernetes' own slice of it is empty, and this one stands beside it: endpoints
of a Service may be in any namespace, by their addresses. An annotation tells the activator who may wake it.
"""

from __future__ import annotations

from moe_operator.activator.announcement import Announcement
from moe_operator.api import MoEDeployment
from moe_operator.api.names import (
    ANNOTATION_ACTIVATION,
    COMPONENT_ACTIVATION,
    FIELD_MANAGER,
    LABEL_SERVICE_NAME,
    LABEL_SLICE_MANAGED_BY,
    activation_name,
    api_service_name,
)
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import ENDPOINT_SLICES
from moe_operator.runtimes.kube_ray.activators import Endpoints


def announcement_of(moe: MoEDeployment, keys: tuple[str, ...], held: bool) -> Announcement:
    """``keys``: digests of those that it takes; none where they are not known, so that nobody may wake it."""
    shards = moe.spec.experts.shards or (moe.status.sleep.shards if moe.status.sleep else 1)
    return Announcement(
        namespace=moe.metadata.namespace,
        name=moe.metadata.name,
        route=moe.route_prefix.rstrip("/"),
        open=moe.spec.serving.api_keys_secret_ref is None,
        keys=keys,
        shards=shards,
        held=held,
    )


def build_activation(moe: MoEDeployment, told: Announcement, activators: Endpoints) -> Json:
    """With the activator's endpoints while requests are held; without any, but with the announcement, else."""
    metadata = child_metadata(moe, activation_name(moe.metadata.name), COMPONENT_ACTIVATION)
    metadata["labels"] |= {
        LABEL_SERVICE_NAME: api_service_name(moe.metadata.name),
        LABEL_SLICE_MANAGED_BY: FIELD_MANAGER,
    }
    metadata["annotations"] = {ANNOTATION_ACTIVATION: told.annotation()}
    addresses = activators.addresses if told.held else ()
    return {
        "apiVersion": ENDPOINT_SLICES.api_version,
        "kind": ENDPOINT_SLICES.kind,
        "metadata": metadata,
        "addressType": activators.family,
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": "http", "port": activators.port, "protocol": "TCP"}],
    }
