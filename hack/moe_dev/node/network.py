"""Addresses of the cluster of nodes: a bridge with the control plane, a link for each node and one for the host.

host 10.77.0.254 ── bridge 10.77.0.100 (API server) ── node-0 10.77.0.1 ── its pods 10.244.0.0/24
                                                    └─ node-1 10.77.0.2 ── its pods 10.244.1.0/24
"""

import contextlib
import ipaddress
from dataclasses import dataclass

LINKS = ipaddress.IPv4Network("10.77.0.0/24")
HOST = LINKS[254]
API = LINKS[100]
API_PORT = 6443
PODS = ipaddress.IPv4Network("10.244.0.0/16")
SERVICES = ipaddress.IPv4Network("10.96.0.0/16")
# The API server is the first of all Services.
API_SERVICE = SERVICES[1]
DNS = SERVICES[10]
DOMAIN = "cluster.local"
# The host's end of its link.
HOST_LINK = "moe-node"
MOST_NODES = 3


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """Where one node is; `number` counts from 0."""

    number: int

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> ipaddress.IPv4Address:
        return LINKS[1 + self.number]

    @property
    def pods(self) -> ipaddress.IPv4Network:
        return list(PODS.subnets(new_prefix=24))[self.number]


def pod_routes(nodes: int, *, besides: int | None = None) -> list[tuple[str, str]]:
    """(destination, next hop) of the pods of all nodes but one."""
    others = (NodeAddress(number) for number in range(nodes) if number != besides)
    return [(str(node.pods), str(node.address)) for node in others]


def taken(routes: str) -> list[str]:
    """Of what `ip route show` printed: destinations that overlap with the cluster's, beside the default route and those
    of a cluster of ours, of which there is one at a time."""
    found = []
    for line in routes.splitlines():
        words = [word for word in line.split() if word not in ("unreachable", "blackhole", "prohibit", "throw")]
        if not words or HOST_LINK in words:
            continue
        # What is no address: default, the hops of a route that has several, broadcast and its like.
        with contextlib.suppress(ValueError):
            destination = ipaddress.IPv4Network(words[0])
            if any(destination.overlaps(ours) for ours in (LINKS, PODS, SERVICES)):
                found.append(str(destination))
    return found


def host_routes(nodes: int) -> list[tuple[str, str]]:
    """The same for the host, which reaches Services through the first node."""
    return [(str(SERVICES), str(NodeAddress(0).address)), *pod_routes(nodes)]
