"""NetworkPolicies: who may connect to the pods. Pure. What pods connect to is not bounded here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moe_operator.api import MoEDeployment
from moe_operator.api.kube_ray import ApiPeer
from moe_operator.api.names import (
    COMPONENT_ATTENTION,
    COMPONENT_HEAD,
    COMPONENT_NETWORK,
    LABEL_COMPONENT,
    LABEL_DEPLOYMENT,
)
from moe_operator.kube.api import Json
from moe_operator.kube.children import child_metadata
from moe_operator.kube.resources import NETWORK_POLICIES
from moe_operator.runtimes.kube_ray.manifests.names import DASHBOARD_PORT, SERVE_PORT

KUBE_RAY: Json = {
    "matchExpressions": [
        {"key": "app.kubernetes.io/name", "operator": "In", "values": ["kuberay", "kuberay-operator"]},
    ]
}
"""Pods of KubeRay's operator, as its kustomization and as its Helm chart name them."""
OPERATOR: Json = {"matchLabels": {LABEL_COMPONENT: "operator"}}
"""Pods of ours, by a label that no value of the chart changes."""
ACTIVATOR: Json = {"matchLabels": {LABEL_COMPONENT: "activator"}}
"""Those of the activator, likewise: what it has held it sends to the API."""
_NAMESPACE = "kubernetes.io/metadata.name"
"""A label that the API server gives each namespace, and nobody can give another one."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Namespaces of those who must reach a head; whoever may make pods there may give them their labels. Empty: all.

    Attributes:
        kube_ray: of KubeRay's operator, which its installations put anywhere.
        operator: of ours.
    """

    kube_ray: tuple[str, ...] = ()
    operator: tuple[str, ...] = ()


def build_policies(moe: MoEDeployment, whereabouts: Whereabouts) -> Iterator[Json]:
    """Among the pods of the deployment everything; the head's dashboard for KubeRay, its API for the operator; the API
    for whom the spec names, and for the activator."""
    name = moe.metadata.name
    mine = {LABEL_DEPLOYMENT: name}
    among = {"from": [{"podSelector": {"matchLabels": mine}}]}
    yield _policy(moe, f"{name}-moe-ray", mine, [among])
    kube_ray = {"from": [_in(whereabouts.kube_ray, KUBE_RAY)], "ports": [_tcp(DASHBOARD_PORT), _tcp(SERVE_PORT)]}
    operator = {"from": [_in(whereabouts.operator, OPERATOR)], "ports": [_tcp(SERVE_PORT)]}
    yield _policy(moe, f"{name}-moe-head", {**mine, LABEL_COMPONENT: COMPONENT_HEAD}, [kube_ray, operator])
    clients: Json = {"ports": [_tcp(SERVE_PORT)]}
    if moe.kube_ray.api_from:
        clients["from"] = [_peer(each) for each in moe.kube_ray.api_from]
        if moe.spec.sleep:
            clients["from"].append(_in(whereabouts.operator, ACTIVATOR))
    yield _policy(moe, f"{name}-moe-api", {**mine, LABEL_COMPONENT: COMPONENT_ATTENTION}, [clients])


def _policy(moe: MoEDeployment, name: str, pods: Mapping[str, str], ingress: list[Json]) -> Json:
    return {
        "apiVersion": NETWORK_POLICIES.api_version,
        "kind": NETWORK_POLICIES.kind,
        "metadata": child_metadata(moe, name, COMPONENT_NETWORK),
        "spec": {"podSelector": {"matchLabels": dict(pods)}, "policyTypes": ["Ingress"], "ingress": ingress},
    }


def _in(namespaces: tuple[str, ...], pods: Json) -> Json:
    named = [{"key": _NAMESPACE, "operator": "In", "values": list(namespaces)}]
    return {"namespaceSelector": {"matchExpressions": named} if namespaces else {}, "podSelector": pods}


def _peer(peer: ApiPeer) -> Json:
    found: dict[str, Any] = {"podSelector": _selector(peer.pod_labels)}
    if peer.namespace_labels is not None:
        found["namespaceSelector"] = _selector(peer.namespace_labels)
    return found


def _selector(labels: Mapping[str, str]) -> Json:
    """As the API server stores it: without labels it matches all."""
    return {"matchLabels": dict(labels)} if labels else {}


def _tcp(port: int) -> Json:
    return {"protocol": "TCP", "port": port}
