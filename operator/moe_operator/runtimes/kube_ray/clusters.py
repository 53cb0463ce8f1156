"""Which Ray clusters a RayService has, and which of them answers clients. Pure.

KubeRay starts a second cluster for a change of image or of other fields of pods, and turns its own Service to it as
soon as Serve runs there, when no expert may have been loaded yet. Ours turns later: when the report of the new one
tells that it serves.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from moe_contract.report import DirectoryReport
from moe_operator.api.names import COMPONENT_HEAD
from moe_operator.kube.api import Json
from moe_operator.kube.store import goes
from moe_operator.runtimes.kube_ray.manifests.names import SERVE_PORT
from moe_operator.runtimes.kube_ray.pods import cluster_of, component_of


@dataclass(frozen=True, slots=True)
class Clusters:
    """Attributes:
    active: that KubeRay has turned to; None before the first.
    pending: that is to become it; None if there is none.
    answering: to which clients are sent; None before the first.
    """

    active: str | None = None
    pending: str | None = None
    answering: str | None = None

    @property
    def newest(self) -> str | None:
        """To which clients are sent in the end."""
        return self.active or self.pending

    @property
    def being_replaced(self) -> bool:
        """Whether KubeRay delivers what is written now to another cluster than the one that answers."""
        return bool(self.active) and (self.pending is not None or self.answering not in (None, self.active))


def clusters_of(status: Mapping[str, Any], selected: str | None, pods: Iterable[Json]) -> Clusters:
    """``selected``: by the Service as it is; a cluster without any living pod answers nobody any more."""
    active, pending = (_name(status.get(f"{which}ServiceStatus")) for which in ("active", "pending"))
    alive = {cluster_of(pod) for pod in pods if _lives(pod)}
    answering = selected if selected in alive else active or pending
    return Clusters(active, pending, answering)


def of_pods(cluster: Mapping[str, Any]) -> Any:
    """Of the spec of a RayCluster what makes it another one for KubeRay, as it compares: numbers of pods are Ray's
    autoscaler's, tolerations and scheduling gates may be added by others, and what is empty may be there or not."""
    return _without_empty(cluster)


_NOT_COMPARED = frozenset(
    {"replicas", "minReplicas", "maxReplicas", "scaleStrategy", "tolerations", "schedulingGates", "upgradeStrategy"}
)


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        kept = ((key, _without_empty(each)) for key, each in value.items() if key not in _NOT_COMPARED)
        return {key: each for key, each in kept if each not in (None, {}, [], "")}
    if isinstance(value, list):
        return [_without_empty(each) for each in value]
    return value


def serves(report: DirectoryReport | None) -> bool:
    """Whether requests are answered where the report comes from."""
    return bool(report and report.placement is not None and any(replica.ready for replica in report.attention))


def head_url(cluster: str, pods: Iterable[Json]) -> str | None:
    """Where Serve on the head of a cluster answers; None while it has no address.

    That of a pod that ended or is on its way out may be somebody else's by now.
    """
    for pod in filter(_lives, pods):
        address = (pod.get("status") or {}).get("podIP")
        if address and cluster_of(pod) == cluster and component_of(pod) == COMPONENT_HEAD:
            return f"http://[{address}]:{SERVE_PORT}" if ":" in address else f"http://{address}:{SERVE_PORT}"
    return None


def has_ended(pod: Json) -> bool:
    """Whether nothing runs in a pod, or ever will."""
    return (pod.get("status") or {}).get("phase") in ("Failed", "Succeeded")


def _lives(pod: Json) -> bool:
    return not has_ended(pod) and not goes(pod)


def _name(status: Any) -> str | None:
    return (status or {}).get("rayClusterName") or None
