"""``moe-operator check-uninstall``: refuses while a MoEDeployment has the operator's finalizer.

Without an operator nobody removes the finalizer any more: each such object would stay for ever once it is deleted, and
so would its namespace. The chart runs this before `helm uninstall` deletes anything.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.errors import OperatorError
from moe_operator.kube.api import Json
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.process.exits import ExitCode
from moe_operator.text import some

SHOWN = 10
"""Names in the message; there may be thousands."""


async def check_uninstall(kubeconfig: Path | None, namespaces: Sequence[str]) -> ExitCode:
    """Say whether the operator of ``namespaces`` (none: of all) can go; ``FAILED`` where it cannot."""
    try:
        async with await KubeClient.connect(kubeconfig) as client:
            held = [key for namespace in namespaces or (None,) for key in await _held(client, namespace)]
    except OperatorError as error:
        print(f"whether MoEDeployments are left cannot be told: {error}", file=sys.stderr)
        return ExitCode.NO_ACCESS
    if held:
        print(refusal(held), file=sys.stderr)
        return ExitCode.FAILED
    print("no MoEDeployment needs the operator")
    return ExitCode.OK


async def _held(client: KubeClient, namespace: str | None) -> list[str]:
    try:
        listing = await client.list(MOE_DEPLOYMENTS, namespace)
    except NotFoundError:  # without the kind there are no objects
        return []
    return holding(listing.items)


def holding(objects: Iterable[Json]) -> list[str]:
    """``namespace/name`` of those with the operator's finalizer."""
    found = (item["metadata"] for item in objects)
    return [f"{each['namespace']}/{each['name']}" for each in found if CLEANUP_FINALIZER in each.get("finalizers", [])]


def refusal(held: Sequence[str]) -> str:
    """Which they are, and what to do."""
    return (
        f"MoEDeployments need the operator for their deletion: {some(held, SHOWN)}. Delete them first "
        "(kubectl delete moe NAME -n NAMESPACE; spec.deletionPolicy: Orphan leaves what serves running), or have them "
        "wait for the next operator with `helm uninstall --no-hooks`. To keep the release instead, which Helm has as "
        "`uninstalling` now and does not upgrade: helm rollback RELEASE REVISION, its last revision by `helm history`"
    )
