"""NetworkPolicies as rules of nftables; pure. No engine for them could be had as a Go module.

`ruleset` gives one table that replaces the one before at once. A pod that a policy selects has a chain of its own for
each direction: what no rule returns from is dropped. Answers to what was let through are. Supported is all of
networking.k8s.io/v1 but IPv6 and SCTP. The same table does for every node.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Json = Mapping[str, Any]

TABLE = "moe_policies"
# Of a pod that has come to its end the address may be another's by now.
LIVING = ("Pending", "Running")


@dataclass(frozen=True, slots=True)
class Direction:
    policy_type: str
    peers: str
    # What nftables calls the pod's own address and the other's.
    own: str
    other: str


INGRESS = Direction("Ingress", "from", "daddr", "saddr")
EGRESS = Direction("Egress", "to", "saddr", "daddr")


@dataclass(frozen=True, slots=True)
class World:
    """The objects that rules are made from, as the API has them."""

    pods: Sequence[Json]
    namespaces: Sequence[Json]
    policies: Sequence[Json]

    def living(self) -> list[Json]:
        """Pods with an address of their own."""
        return [
            pod
            for pod in self.pods
            if pod["status"].get("podIP")
            and pod["status"]["phase"] in LIVING
            and not pod["spec"].get("hostNetwork", False)
        ]

    def labels_of_namespace(self, name: str) -> Json:
        return next((_labels(one) for one in self.namespaces if one["metadata"]["name"] == name), {})


def ruleset(world: World) -> str:
    """The text for `nft -f -`."""
    chains: list[str] = []
    forward: list[str] = []
    outgoing: list[str] = []
    for pod, direction in itertools.product(world.living(), (INGRESS, EGRESS)):
        policies = [policy for policy in world.policies if _applies(policy, pod, direction)]
        if not policies:
            continue
        address = pod["status"]["podIP"]
        name = f"{direction.policy_type.lower()}_{address.replace('.', '_')}"
        rules = [f"    {rule} return" for policy in policies for rule in _rules(policy, pod, direction, world)]
        chains.append("\n".join([f"  chain {name} {{", *rules, "    counter drop", "  }"]))
        jump = f"    ip {direction.own} {address} jump {name}"
        forward.append(jump)
        if direction is EGRESS:
            outgoing.append(jump)  # to the node itself, and what the kube-proxy answers on it
    return "\n".join(
        [
            f"table inet {TABLE} {{}}",
            f"delete table inet {TABLE}",
            f"table inet {TABLE} {{",
            *chains,
            *_hook("forward", forward),
            *_hook("input", outgoing),
            "}",
            "",
        ]
    )


def _hook(name: str, jumps: Sequence[str]) -> list[str]:
    return [
        f"  chain {name} {{",
        f"    type filter hook {name} priority 0; policy accept;",
        "    ct state established,related accept",
        *jumps,
        "  }",
    ]


def _applies(policy: Json, pod: Json, direction: Direction) -> bool:
    spec = policy["spec"]
    types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]
    return (
        policy["metadata"]["namespace"] == pod["metadata"]["namespace"]
        and direction.policy_type in types
        and selects(spec.get("podSelector") or {}, _labels(pod))
    )


def _rules(policy: Json, pod: Json, direction: Direction, world: World) -> Iterator[str]:
    """What the policy lets through, each as a condition."""
    for rule in policy["spec"].get(direction.policy_type.lower()) or []:
        peers = list(_peers(rule.get(direction.peers), policy["metadata"]["namespace"], direction, world))
        named = [pod] if direction is INGRESS else world.living()
        ports = list(_ports(rule.get("ports"), named))
        for peer, port in itertools.product(peers, ports):
            yield f"{peer} {port}".strip()


def _peers(peers: Sequence[Json] | None, namespace: str, direction: Direction, world: World) -> Iterator[str]:
    if not peers:
        yield ""
        return
    addresses: set[str] = set()
    for peer in peers:
        if block := peer.get("ipBlock"):
            if ":" not in block["cidr"]:
                but = block.get("except")
                excluded = f" ip {direction.other} != {{ {', '.join(but)} }}" if but else ""
                yield f"ip {direction.other} {block['cidr']}{excluded}"
        else:
            addresses |= {pod["status"]["podIP"] for pod in world.living() if _is_peer(peer, pod, namespace, world)}
    if addresses:
        yield f"ip {direction.other} {{ {', '.join(sorted(addresses))} }}"


def _is_peer(peer: Json, pod: Json, namespace: str, world: World) -> bool:
    where = pod["metadata"]["namespace"]
    if "namespaceSelector" in peer:
        if not selects(peer["namespaceSelector"], world.labels_of_namespace(where)):
            return False
    elif where != namespace:
        return False
    return selects(peer.get("podSelector") or {}, _labels(pod))


def _ports(ports: Sequence[Json] | None, pods: Iterable[Json]) -> Iterator[str]:
    """`pods`: those whose named ports count."""
    if not ports:
        yield ""
        return
    pods = list(pods)
    for port in ports:
        protocol, number = port.get("protocol", "TCP").lower(), port.get("port")
        if number is None:
            yield f"meta l4proto {protocol}"
        elif isinstance(number, str):
            for found in sorted({one for pod in pods for one in _named_ports(pod, number, protocol)}):
                yield f"{protocol} dport {found}"
        else:
            yield f"{protocol} dport {number}" + (f"-{port['endPort']}" if "endPort" in port else "")


def _named_ports(pod: Json, name: str, protocol: str) -> Iterator[int]:
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", []):
            if port.get("name") == name and port.get("protocol", "TCP").lower() == protocol:
                yield port["containerPort"]


def selects(selector: Json, labels: Json) -> bool:
    """Kubernetes' label selector; an empty one selects everything."""
    wanted = (selector.get("matchLabels") or {}).items()
    return all(labels.get(key) == value for key, value in wanted) and all(
        _meets(expression, labels) for expression in selector.get("matchExpressions") or []
    )


def _meets(expression: Json, labels: Json) -> bool:
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case unknown:
            raise ValueError(f"a label selector with the operator {unknown!r}")


def _labels(thing: Json) -> Json:
    return thing["metadata"].get("labels") or {}
