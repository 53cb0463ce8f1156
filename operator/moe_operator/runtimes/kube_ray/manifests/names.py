"""Names of groups, ports and custom resources: those of our own choice, and KubeRay's labels. Pure."""

from __future__ import annotations

from moe_operator.api.names import API_PORT

ATTENTION_GROUP, EXPERTS_GROUP = "attention", "experts"
"""Groups of worker pods, as KubeRay's label ``ray.io/group`` tells them."""

WORKER_CONTAINER = "ray-worker"
"""Of a worker's pod, the one in which Ray runs; others may put more beside it."""

LABEL_CLUSTER, LABEL_GROUP = "ray.io/cluster", "ray.io/group"

PORTS = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "serve": API_PORT}
"""Of the head; KubeRay looks for them by these names."""
SERVE_PORT, DASHBOARD_PORT = PORTS["serve"], PORTS["dashboard"]

ATTENTION_RESOURCE, SHARD_RESOURCE = "attention", "moe_shard"
"""Of Ray's own counting: each pod offers 1 of the one or the other, and processes ask for a part."""


def token_secret_name(deployment: str) -> str:
    """Name of the Secret with the token by which the parts of the Ray cluster know each other."""
    return f"{deployment}-moe-ray-token"


SERVE_CONFIG = "serveConfigV2"
"""Where a RayService has what Serve is told."""

TOKEN_KEY = "auth_token"
"""Where KubeRay looks for it in its Secret."""
