"""What stands in the way of a deployment on a shared Ray cluster. Pure.

Messages say the same at every attempt: a status that repeats itself is not written again.
"""

from __future__ import annotations

from moe_contract.serve.merge import Conflict
from moe_operator.api import MoEDeployment, Reason
from moe_operator.finding import Finding
from moe_operator.runtimes.port import core_name
from moe_operator.runtimes.ray_cluster.names import owner_of


def in_the_way(moe: MoEDeployment, conflict: Conflict) -> Finding:
    """Whose application has a name or a route that the deployment wants."""
    removal = _removal(moe, conflict.owner)
    if conflict.route is None:
        return Finding(
            Reason.NAME_CONFLICT,
            f"Serve application {conflict.owner!r} on this Ray cluster has a name of this deployment's and is left "
            f"alone: delete it{removal}",
        )
    owner, known = _owner(moe, conflict.owner)
    if conflict.path:
        where = f"{conflict.path} is a path of {owner}" if known else f"a path above or below it is of {owner}"
        return Finding(
            Reason.ROUTE_PREFIX_TAKEN,
            f"spec.serving.routePrefix is {conflict.route}, and {where}: "
            f"Serve would send requests for the one to the other; choose another prefix{removal}",
        )
    return Finding(
        Reason.ROUTE_PREFIX_TAKEN,
        f"spec.serving.routePrefix is {conflict.route}, which {owner} has: choose another{removal}",
    )


def _owner(moe: MoEDeployment, application: str) -> tuple[str, bool]:
    """Who has a route, and whether it may be named: of other namespaces a tenant knows no more than that one does."""
    owner = owner_of(application)
    if owner is None or owner.namespace != moe.metadata.namespace:
        return "another application on this Ray cluster", False
    whose = f"MoEDeployment {owner.key}"
    if _namesake(moe, application):
        return f"an earlier {whose} (or one of another Kubernetes cluster)", True
    return whose, True


def _namesake(moe: MoEDeployment, application: str) -> str | None:
    """The core application's name, if this is of another object of the same name: names carry a hash of the uid."""
    owner = owner_of(application)
    return owner.core if owner and owner.key == moe.key and owner.core != core_name(moe) else None


def _removal(moe: MoEDeployment, application: str) -> str:
    left = _namesake(moe, application)
    if left is None:
        return ""
    return f", or, if nobody needs it, remove {left}* from Ray (docs/operations.md, 'Applications left behind')"
