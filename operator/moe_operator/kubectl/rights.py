"""What each command needs of the API server, and which role of ``operator/manifests`` gives it.

Nothing here asks beforehand: a command does what it was told, and where the API server answers 403, ``missing`` says
what would have to be granted.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from moe_operator.api.names import GROUP, PLACEMENT_PLURAL, PLURAL


class Right(NamedTuple):
    """A verb on a resource of our group."""

    verb: str
    resource: str


_READ, _CHANGE = Right("get", PLURAL), Right("patch", PLURAL)
_READ_PLACEMENT, _LIST_PLACEMENTS = Right("get", PLACEMENT_PLURAL), Right("list", PLACEMENT_PLURAL)
_DECIDE, _WRITE_PLACEMENT = Right("patch", PLACEMENT_PLURAL), Right("create", PLACEMENT_PLURAL)

RIGHTS: dict[str, tuple[Right, ...]] = {
    "status": (_READ, Right("list", PLURAL), _LIST_PLACEMENTS),
    "placement": (_READ, _READ_PLACEMENT),
    "proposals": (_LIST_PLACEMENTS,),
    "diff": (_READ_PLACEMENT,),
    "explain": (_READ_PLACEMENT,),
    "approve": (_READ_PLACEMENT, _DECIDE),
    "reject": (_READ_PLACEMENT, _DECIDE),
    "rollback": (
        _READ,
        _READ_PLACEMENT,
        _LIST_PLACEMENTS,
        _WRITE_PLACEMENT,
        _DECIDE,
        Right("delete", PLACEMENT_PLURAL),
    ),
    "pause": (_READ, _CHANGE),
    "resume": (_READ, _CHANGE),
    "drain": (_READ, _CHANGE),
    "top": (_READ,),
}
"""Rights by command. ``status`` lists MoEDeployments only where none is named; ``rollback`` deletes only what it has
just written and was not allowed to approve; ``top --url`` asks the deployment and needs none."""

VIEW, EDIT, APPROVE = "moe-operator-view", "moe-operator-edit", "moe-operator-approve"
_ROLES = {
    _DECIDE: APPROVE,
    _CHANGE: EDIT,
    _WRITE_PLACEMENT: EDIT,
    Right("delete", PLACEMENT_PLURAL): EDIT,
}
_USUAL = {VIEW: "view, edit and admin include it", EDIT: "edit and admin include it", APPROVE: "admin includes it"}

_FORBIDDEN = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>[a-z]+) resource "(?P<resource>[a-z/]+)" in API group "(?P<group>[^"]*)"'
    r'(?: in the namespace "(?P<namespace>[^"]*)")?'
)
_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")


def role_of(right: Right) -> str:
    """The ClusterRole of this project that gives a right in our group."""
    return _ROLES.get(right, VIEW)


def missing(words: str) -> str:
    """What is said of a 403, in place of the API server's ``words`` for it: verb, resource, and the role to be granted.
    Words about another group, or of another form (an admission policy's), stay as they are."""
    found = _FORBIDDEN.search(words)
    if found is None or found["group"] != GROUP:
        return words
    user, namespace, verb, resource = found["user"], found["namespace"] or "", found["verb"], found["resource"]
    role = role_of(Right(verb, resource))
    account = _SERVICE_ACCOUNT.fullmatch(user)
    who = f"--serviceaccount={account[1]}:{account[2]}" if account else f"--user={user}"
    where = ("in namespace " + namespace) if namespace else "in all namespaces"
    grant = ["kubectl", "create", "rolebinding", role, f"--clusterrole={role}", who, "-n", namespace]
    return (
        f"{user} may not {verb} {resource}.{GROUP} {where}: the role {role} is missing ({_USUAL[role]}); whoever "
        f"administers the namespace grants it with: {shlex.join(grant if namespace else grant[:-2])}"
    )
