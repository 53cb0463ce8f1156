"""The Service of the API. Pure.

KubeRay's own Service has every pod with a Serve proxy for its endpoints, pods of expert shards included, of which one
that is killed costs clients a refused request; and it turns to a new cluster before experts are loaded there.
"""

from __future__ import annotations

from moe_operator.api import MoEDeployment
from moe_operator.api.names import COMPONENT_API, api_service_name
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import SERVICES
from moe_operator.runtimes.kube_ray.manifests.names import ATTENTION_GROUP, LABEL_CLUSTER, LABEL_GROUP, SERVE_PORT

NO_CLUSTER = "none"
"""In the selector while there is no Ray cluster."""


def build_service(moe: MoEDeployment, cluster: str | None) -> Json:
    """``cluster``: the Ray cluster that answers."""
    return {
        "apiVersion": SERVICES.api_version,
        "kind": SERVICES.kind,
        "metadata": child_metadata(moe, api_service_name(moe.metadata.name), COMPONENT_API),
        "spec": {
            "selector": {LABEL_CLUSTER: cluster or NO_CLUSTER, LABEL_GROUP: ATTENTION_GROUP},
            "ports": [{"name": "http", "port": SERVE_PORT, "targetPort": SERVE_PORT, "protocol": "TCP"}],
        },
    }


def selected_cluster(service: Json | None) -> str | None:
    """The Ray cluster to which a Service leads; None if there is none."""
    found = ((service or {}).get("spec") or {}).get("selector") or {}
    cluster = found.get(LABEL_CLUSTER)
    return None if cluster in (None, NO_CLUSTER) else str(cluster)
