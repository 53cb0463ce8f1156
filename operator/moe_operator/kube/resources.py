"""The kinds the operator reads and writes, and their paths on the API server."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from moe_operator.api import names


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind.

    Attributes:
        group: empty for the core group.
        plural: as in paths and RBAC rules.
        namespaced: whether its objects are in namespaces.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        """As in a manifest."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of the collection, of the object ``name`` in it, or of that object's ``subresource``."""
        parts = ["/apis", self.group, self.version] if self.group else ["/api", self.version]
        if namespace:
            parts += ["namespaces", quote(namespace, safe="")]
        parts.append(self.plural)
        parts += [quote(part, safe="") for part in (name, subresource) if part]
        return "/".join(parts)


MOE_DEPLOYMENTS = Resource(names.GROUP, names.VERSION, names.PLURAL, names.KIND)
EXPERT_PLACEMENTS = Resource(names.GROUP, names.VERSION, names.PLACEMENT_PLURAL, names.PLACEMENT_KIND)
SECRETS = Resource("", "v1", "secrets", "Secret")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
RAY_CLUSTERS = Resource("ray.io", "v1", "rayclusters", "RayCluster")
RAY_SERVICES = Resource("ray.io", "v1", "rayservices", "RayService")
SERVICES = Resource("", "v1", "services", "Service")
PODS = Resource("", "v1", "pods", "Pod")
NODES = Resource("", "v1", "nodes", "Node", namespaced=False)
POD_DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
