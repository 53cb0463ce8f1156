"""``serveConfigV2``: the Serve configuration that any runtime renders, with what each process asks of its pod. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from moe_contract.applications import API, ATTENTION, DIRECTORY, EXPERTS
from moe_contract.rendering import Desired, render
from moe_operator.runtimes.kube_ray.manifests.names import ATTENTION_RESOURCE, SERVE_PORT, SHARD_RESOURCE

_ASKED: Mapping[str, Mapping[str, float]] = {
    API: {ATTENTION_RESOURCE: 0.01},
    DIRECTORY: {ATTENTION_RESOURCE: 0.01},
    ATTENTION: {ATTENTION_RESOURCE: 0.6},
    EXPERTS: {SHARD_RESOURCE: 1},
}
"""What an actor does not ask for it may get anywhere, on the head too. One attention replica fits into a pod, beside
api replicas and the directory; one shard into a pod of its own."""


def serve_config(desired: Desired, without: Collection[str] = ()) -> str:
    """As text; JSON is YAML. ``without``: names of applications that are left out.

    The same wish is the same text: KubeRay submits it to Serve when it differs.
    """
    applications = [_placed(each) for each in render(desired) if each["name"] not in without]
    options = {"proxy_location": "EveryNode", "http_options": {"host": "0.0.0.0", "port": SERVE_PORT}}
    return json.dumps({**options, "applications": applications}, separators=(",", ":"))


def with_options_of(kept: str, later: str) -> str:
    """``kept``, with what each process asks of its pod as in ``later``: the pods of a cluster that is still to come
    offer that and nothing else. Somebody else may have written ``kept``: where it cannot be read it stays."""
    wanted = {each["name"]: each["ray_actor_options"] for each in _deployments(json.loads(later))}
    try:
        read = json.loads(kept)
        changed = [each for each in _deployments(read) if each["ray_actor_options"] != wanted[each["name"]]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return kept
    for each in changed:
        each["ray_actor_options"] = wanted[each["name"]]
    return json.dumps(read, separators=(",", ":")) if changed else kept


def _deployments(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [each for application in config["applications"] for each in application["deployments"]]


def _placed(application: Mapping[str, Any]) -> dict[str, Any]:
    return {**application, "deployments": [_asking(each) for each in application["deployments"]]}


def _asking(deployment: Mapping[str, Any]) -> dict[str, Any]:
    # Options in a configuration replace all those in code, and Ray takes 1 CPU for an actor that says nothing.
    options: dict[str, Any] = {"num_cpus": 0, **deployment.get("ray_actor_options", {})}
    resources: dict[str, Any] = {**options.get("resources", {}), **_ASKED[deployment["name"]]}
    return {**deployment, "ray_actor_options": {**options, "resources": resources}}
