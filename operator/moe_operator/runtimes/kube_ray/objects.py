"""What is known of the children of deployments that KubeRay runs, and of the nodes of their pods, by watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from moe_operator.api import MoEDeployment
from moe_operator.api.names import FIELD_MANAGER, LABEL_SLICE_MANAGED_BY, activation_name, api_service_name
from moe_operator.finding import Finding
from moe_operator.kube.api import Json
from moe_operator.kube.child_watch import SELECTOR, WatchedKind, whole
from moe_operator.kube.resources import (
    ENDPOINT_SLICES,
    NETWORK_POLICIES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    RAY_CLUSTERS,
    RAY_SERVICES,
    SERVICES,
    Resource,
)
from moe_operator.kube.store import ObjectStore
from moe_operator.runtimes.kube_ray.clusters import has_ended
from moe_operator.runtimes.kube_ray.leaving import PodsOnNodes
from moe_operator.runtimes.kube_ray.manifests.budgets import experts_budget_name
from moe_operator.runtimes.kube_ray.nodes import NodeState
from moe_operator.runtimes.kube_ray.pods import cluster_of
from moe_operator.runtimes.kube_ray.stores import NodeStore, PodStore

_WHOLE = (RAY_SERVICES, RAY_CLUSTERS, SERVICES, POD_DISRUPTION_BUDGETS, NETWORK_POLICIES)
_SLICES = f"{SELECTOR},{LABEL_SLICE_MANAGED_BY}={FIELD_MANAGER}"
"""Those that Kubernetes makes for our Services have our labels, too. They are watched whether or not there is an
activator: where one was, theirs are still there."""


class KubeRayObjects:
    """Of all deployments.

    Attributes:
        kinds: of children.
        nodes: of the whole cluster; unknown to an operator that is installed for single namespaces.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._pods, self._nodes = PodStore(clock), NodeStore(clock)
        self.kinds = {resource: WatchedKind(resource, ObjectStore(keep=whole)) for resource in _WHOLE}
        self.kinds[ENDPOINT_SLICES] = WatchedKind(ENDPOINT_SLICES, ObjectStore(keep=whole), selector=_SLICES)
        self.kinds[PODS] = WatchedKind(PODS, self._pods)
        self.nodes = WatchedKind(NODES, self._nodes, self._on_node, selector="")

    @property
    def stores(self) -> dict[Resource, ObjectStore]:
        """Of the children that the operator writes."""
        return {resource: kind.objects for resource, kind in self.kinds.items() if resource != PODS}

    @property
    def ray_services(self) -> WatchedKind:
        return self.kinds[RAY_SERVICES]

    async def answered(self, namespace: str, seconds: float) -> None:
        """Wait until something is known of each kind in a namespace, so long at most."""
        kinds = (*self.kinds.values(), self.nodes)
        await asyncio.gather(*(kind.answered(namespace, seconds) for kind in kinds))

    def service(self, moe: MoEDeployment) -> Json | None:
        """The Service of its API."""
        key = f"{moe.metadata.namespace}/{api_service_name(moe.metadata.name)}"
        return self.kinds[SERVICES].objects.get(key)

    def activation(self, moe: MoEDeployment) -> Json | None:
        """What leads its requests to the activator, or led them there while there was one; None if nothing ever did."""
        key = f"{moe.metadata.namespace}/{activation_name(moe.metadata.name)}"
        return self.kinds[ENDPOINT_SLICES].objects.get(key)

    def ray_cluster(self, moe: MoEDeployment, name: str) -> Json | None:
        """A RayCluster that KubeRay made for its RayService, whose labels it has."""
        return self.kinds[RAY_CLUSTERS].objects.get(f"{moe.metadata.namespace}/{name}")

    def experts_budget(self, moe: MoEDeployment) -> Json | None:
        """The budget of its pods for shards."""
        key = f"{moe.metadata.namespace}/{experts_budget_name(moe.metadata.name)}"
        return self.kinds[POD_DISRUPTION_BUDGETS].objects.get(key)

    def pods(self, moe: MoEDeployment) -> list[Json]:
        """Its pods, those that ended or are on their way out included."""
        return self._pods.of(moe.key)

    def pods_of(self, moe: MoEDeployment, cluster: str | None) -> PodsOnNodes:
        """Its pods in a Ray cluster, and what their nodes do to them, which is nothing while nodes are not watched;
        those that ended left out."""
        pods = [pod for pod in self.pods(moe) if cluster_of(pod) == cluster and not has_ended(pod)]
        return PodsOnNodes(pods, self._nodes.state_for if self.nodes.missing("") is None else _stays)

    def end_of_a_pod(self, moe: MoEDeployment, cluster: str | None) -> Finding | None:
        """How a pod of its Ray cluster ended by itself lately; None if none did."""
        return self._pods.end(moe.key, cluster)

    def _on_node(self, node: Json) -> frozenset[str]:
        """Deployments with pods on a node."""
        return self._pods.owners_on(node["metadata"]["name"])


def _stays(pod: Json) -> NodeState:
    return NodeState.STAYS
