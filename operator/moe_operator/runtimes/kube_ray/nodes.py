"""What a node does to the pods on it: keeps them, goes away with them, or is dead. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from moe_operator.kube.api import Json

_CORDON = "node.kubernetes.io/unschedulable"
_LEAVING_KEYS = frozenset(
    {
        _CORDON,
        "ToBeDeletedByClusterAutoscaler",
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "cloud.google.com/impending-node-termination",
    }
)
_LEAVING_PREFIXES = ("aws-node-termination-handler/",)
"""Taints by which those who take nodes away say so beforehand."""
_OUT_KEYS = frozenset({"node.kubernetes.io/out-of-service", "node.cloudprovider.kubernetes.io/shutdown"})
"""Taints that say of a node that it is off: by an administrator, by the cloud."""
_EFFECTS = frozenset({"NoSchedule", "NoExecute"})
_MOST_TAINTS = 64


class NodeState(Enum):
    """Attributes:
    STAYS: nothing is to be done.
    LEAVES: it is cordoned, or is to be taken away: its pods shall go, in good order.
    SILENT: its kubelet says that it is not ready: what runs may go on, and Kubernetes takes its pods away in the end.
    UNHEARD: its kubelet is not heard of: it may be dead, or cut off from the API server alone.
    OUT: it is off, or was removed: nobody there can be asked to end anything.
    """

    STAYS = auto()
    LEAVES = auto()
    SILENT = auto()
    UNHEARD = auto()
    OUT = auto()


def trimmed_node(node: Json) -> Json:
    """What is read of a node: some hundred bytes of some ten thousand."""
    metadata, spec = node["metadata"], node.get("spec") or {}
    taints = [
        {key: str(taint[key])[:320] for key in ("key", "value", "effect") if taint.get(key)}
        for taint in (spec.get("taints") or ())[:_MOST_TAINTS]
    ]
    conditions = (node.get("status") or {}).get("conditions") or ()
    ready = [{"type": "Ready", "status": str(each.get("status"))} for each in conditions if each.get("type") == "Ready"]
    return {
        "metadata": {key: metadata[key] for key in ("name", "uid", "resourceVersion") if key in metadata},
        "spec": {"unschedulable": bool(spec.get("unschedulable")), "taints": taints},
        "status": {"conditions": ready},
    }


def node_state(node: Json, pod: Json) -> NodeState:
    """Of a node, as ``trimmed_node`` leaves it, for one of its pods: a pod that tolerates what says that a node leaves
    would come back to it, and stays."""
    spec, tolerations = node["spec"], (pod.get("spec") or {}).get("tolerations") or ()
    taints = [taint for taint in spec["taints"] if taint.get("effect") in _EFFECTS]
    ready = next((each["status"] for each in node["status"]["conditions"]), "True")
    if any(taint.get("key") in _OUT_KEYS for taint in taints):
        return NodeState.OUT
    if ready == "Unknown":
        return NodeState.UNHEARD
    leaving = [taint for taint in taints if _says_it_leaves(str(taint.get("key")))]
    if spec["unschedulable"]:
        leaving.append({"key": _CORDON, "effect": "NoSchedule"})
    if any(not _tolerated(taint, tolerations) for taint in leaving):
        return NodeState.LEAVES
    return NodeState.SILENT if ready == "False" else NodeState.STAYS


def _says_it_leaves(key: str) -> bool:
    return key in _LEAVING_KEYS or key.startswith(_LEAVING_PREFIXES)


def _tolerated(taint: Mapping[str, str], tolerations: Any) -> bool:
    return any(_matches(taint, each) for each in tolerations if not each.get("tolerationSeconds"))


def _matches(taint: Mapping[str, str], toleration: Mapping[str, Any]) -> bool:
    """As Kubernetes matches them."""
    if toleration.get("effect") not in (None, "", taint.get("effect")):
        return False
    if toleration.get("key") not in (None, "", taint.get("key")):
        return False
    if toleration.get("operator") == "Exists":
        return True
    return bool(toleration.get("key")) and (toleration.get("value") or "") == (taint.get("value") or "")
