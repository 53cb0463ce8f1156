"""A demo in a cluster that others use: a namespace of its own, which holds all that it makes but the CRD.

The operator's rights are those of its manifests, given for that namespace only, and its Lease is there too, so an
operator that works in the cluster already is neither waited for nor replaced. Nothing that exists is changed: where the
demo would have to, or would be disturbed, it is refused with the cure. Used by `demo_cluster`.
"""

import datetime
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from moe_dev.kube import Kubectl, KubectlError
from moe_dev.operator_process import CRDS, MANIFESTS, install_crds
from moe_dev.paths import CLONE
from moe_dev.progress import say

NAMESPACE = "moe-demo"
# Who the operator is and what it may do; the other manifests are about a whole cluster and its users.
IDENTITY = ("10-service-account.yaml", "20-operator-rights.yaml")
LEASE = "moe-operator"
# Set to 1 by somebody who knows that the operator of this cluster leaves the namespace alone.
BESIDE_OPERATOR = "DEMO_BESIDE_OPERATOR"
DELETE_SECONDS = 60.0


class ClusterRefusedError(Exception):
    """The demo would change what others have in the cluster, or be disturbed by it; the message says what to do."""


@contextmanager
def demo_namespace(kubectl: Kubectl) -> Iterator[None]:
    """Make NAMESPACE with the operator's identity in it, and the CRDs that are missing; the namespace goes again."""
    _refuse_other_operator(kubectl)
    absent = [path for path in sorted(CRDS.glob("*.yaml")) if _absent(kubectl, path)]
    _create_namespace(kubectl)
    try:
        for path in absent:
            install_crds(kubectl, path)
        documents = [document for name in IDENTITY for document in yaml.safe_load_all((MANIFESTS / name).read_text())]
        kubectl.apply(*confined(documents, NAMESPACE))
        yield
    finally:
        kubectl.run("delete", "namespace", NAMESPACE, timeout=DELETE_SECONDS)
        if absent:
            files = " ".join(f"-f {path.relative_to(CLONE)}" for path in absent)
            say(f"what stays in your cluster: kubectl delete {files}")


def confined(manifests: Iterable[dict[str, Any]], namespace: str) -> list[dict[str, Any]]:
    """The same ServiceAccount, rights and bindings in one namespace: a ClusterRole becomes a Role."""
    moved = json.loads(json.dumps(list(manifests)))
    for one in moved:
        one["kind"] = one["kind"].removeprefix("Cluster")
        one["metadata"]["namespace"] = namespace
        for subject in one.get("subjects", []):
            subject["namespace"] = namespace
        if "roleRef" in one:
            one["roleRef"]["kind"] = "Role"
    return list(moved)


def _refuse_other_operator(kubectl: Kubectl) -> None:
    """One that works all namespaces would work the demo's too, and the two would undo each other's work."""
    if os.environ.get(BESIDE_OPERATOR) == "1":
        return
    leases = kubectl.run("get", "leases", "--all-namespaces", f"--field-selector=metadata.name={LEASE}", "-o", "json")
    for lease in json.loads(leases)["items"]:
        if is_held(lease["spec"], datetime.datetime.now(datetime.UTC)):
            namespace, holder = lease["metadata"]["namespace"], lease["spec"]["holderIdentity"]
            raise ClusterRefusedError(
                f"an operator works in this cluster (Lease {LEASE} in namespace {namespace}, held by {holder}) and"
                " would work the demo's deployment too: use another cluster, or, if it leaves namespace"
                f" {NAMESPACE} alone, set {BESIDE_OPERATOR}=1"
            )


def is_held(lease: dict[str, Any], now: datetime.datetime) -> bool:
    """Whether the spec of a Lease says that its holder lives; clocks of other machines may be some seconds off."""
    if not lease.get("holderIdentity") or not lease.get("renewTime"):
        return False
    age = now - datetime.datetime.fromisoformat(lease["renewTime"])
    return age < datetime.timedelta(seconds=2 * lease.get("leaseDurationSeconds", 0))


def _absent(kubectl: Kubectl, path: Path) -> bool:
    """Whether the CRD in that file is not installed; refused where another version of it is."""
    name = yaml.safe_load(path.read_text())["metadata"]["name"]
    installed = kubectl.get("crd", name)
    if installed is None:
        return True
    # The server fills in what the file leaves to it.
    ours = json.loads(kubectl.run("replace", "--dry-run=server", "-o", "json", "-f", str(path)))
    if ours["spec"] != installed["spec"]:
        shown = path.relative_to(CLONE)
        raise ClusterRefusedError(
            f"the CRD {name} in this cluster is of another version: use another cluster, or, if all its users can do"
            f" with this version, `kubectl apply -f {shown}` (`kubectl diff -f {shown}` shows what that changes)"
        )
    return False


def _create_namespace(kubectl: Kubectl) -> None:
    """Never one that exists: it goes when the demo ends, with all that is in it."""
    try:
        kubectl.run("create", "namespace", NAMESPACE)
    except KubectlError as error:
        if "AlreadyExists" not in str(error):
            raise
        raise ClusterRefusedError(
            f"namespace {NAMESPACE} exists already: another demo uses it, or one that was killed left it. If nobody"
            f" needs it: kubectl delete namespace {NAMESPACE} --wait=false; kubectl patch moe tiny -n {NAMESPACE}"
            """ --type=merge --patch='{"metadata":{"finalizers":null}}'"""
        ) from None
