"""Where the activator is, by the EndpointSlices that Kubernetes makes for its Service."""

from __future__ import annotations

from dataclasses import dataclass, field

from moe_operator.api.names import API_PORT, LABEL_SERVICE_NAME
from moe_operator.kube.child_watch import WatchedKind, whole
from moe_operator.kube.resources import ENDPOINT_SLICES
from moe_operator.kube.store import ObjectStore


@dataclass(frozen=True, slots=True)
class ServiceName:
    """Of the activator's Service."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Attributes:
    family: ``addressType`` of the slices that they are from.
    addresses: of the pods that are ready, in order.
    """

    family: str = "IPv4"
    addresses: tuple[str, ...] = ()
    port: int = API_PORT


@dataclass(frozen=True, slots=True)
class Activators:
    """Those that there are, as a watch tells; ``service``: their Service."""

    service: ServiceName
    kind: WatchedKind = field(init=False)

    def __post_init__(self) -> None:
        selector = f"{LABEL_SERVICE_NAME}={self.service.name}"
        kind = WatchedKind(ENDPOINT_SLICES, ObjectStore(keep=whole), selector=selector)
        object.__setattr__(self, "kind", kind)

    def endpoints(self, family: str | None = None) -> Endpoints:
        """Of one family: of this one, where it is given, else IPv4 where there are both."""
        found = sorted(self.kind.objects.all(), key=lambda each: str(each.get("addressType")))
        for each in found:
            if family not in (None, each.get("addressType")):
                continue
            ready = [one for one in each.get("endpoints") or () if (one.get("conditions") or {}).get("ready")]
            addresses = tuple(sorted(one["addresses"][0] for one in ready))
            ports = [one["port"] for one in each.get("ports") or () if one.get("port")]
            if addresses and ports:
                return Endpoints(str(each["addressType"]), addresses, int(ports[0]))
        return Endpoints(family or "IPv4")
