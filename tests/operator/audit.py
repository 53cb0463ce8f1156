"""What a ServiceAccount asked of the API server, by the audit log of the embedded control plane."""

import json
from typing import Any, NamedTuple

from moe_dev.controlplane import ControlPlane

READS = frozenset({"get", "list", "watch"})


class Grant(NamedTuple):
    """A verb on a resource (``plural`` or ``plural/subresource``) of a group, as RBAC counts."""

    verb: str
    group: str
    resource: str


def entries(plane: ControlPlane, user: str) -> list[dict[str, Any]]:
    """All objects that ``user`` asked for, in order; of the server itself, such as its version, everybody may ask."""
    found = (json.loads(line) for line in plane.audit_log.read_text().splitlines())
    # Of a request that was given up before it was known whose it is, the log has no name.
    return [entry for entry in found if entry["user"].get("username") == user and "objectRef" in entry]


def asked(entry: dict[str, Any]) -> Grant:
    """The right that an entry of the log needs."""
    what = entry["objectRef"]
    subresource = f"/{what['subresource']}" if what.get("subresource") else ""
    return Grant(entry["verb"], what.get("apiGroup", ""), what["resource"] + subresource)


def granted(rules: list[dict[str, Any]]) -> set[Grant]:
    """All rights of RBAC rules."""
    return {
        Grant(verb, group, resource)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
