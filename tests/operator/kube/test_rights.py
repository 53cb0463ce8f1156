"""The operator has the rights it needs and no others; people get theirs by the usual roles."""

import pytest
from access_review import can

from moe_dev.kube import Kubectl
from moe_dev.operator_process import service_account

pytestmark = pytest.mark.e2e

OPERATOR = f"system:serviceaccount:{':'.join(service_account())}"
EVERYWHERE = "any"

MAY = [
    ("watch", "moe-operator.io", "moedeployments", EVERYWHERE),
    ("patch", "moe-operator.io", "moedeployments", EVERYWHERE),
    ("update", "moe-operator.io", "moedeployments/status", EVERYWHERE),
    ("create", "moe-operator.io", "expertplacements", EVERYWHERE),
    ("delete", "moe-operator.io", "expertplacements", EVERYWHERE),
    ("update", "moe-operator.io", "expertplacements/status", EVERYWHERE),
    ("get", "", "secrets", EVERYWHERE),
    ("delete", "ray.io", "rayservices", EVERYWHERE),
    ("patch", "ray.io", "rayclusters", EVERYWHERE),
    ("patch", "", "services", EVERYWHERE),
    ("patch", "policy", "poddisruptionbudgets", EVERYWHERE),
    ("create", "networking.k8s.io", "networkpolicies", EVERYWHERE),
    ("watch", "discovery.k8s.io", "endpointslices", EVERYWHERE),
    ("patch", "discovery.k8s.io", "endpointslices", EVERYWHERE),
    ("watch", "", "pods", EVERYWHERE),
    ("delete", "", "pods", EVERYWHERE),
    ("list", "", "nodes", EVERYWHERE),
    ("watch", "", "nodes", EVERYWHERE),
    ("create", "events.k8s.io", "events", EVERYWHERE),
    ("update", "coordination.k8s.io", "leases:moe-operator", "moe-system"),
]
MAY_NOT = [
    ("create", "moe-operator.io", "moedeployments", EVERYWHERE),
    ("delete", "moe-operator.io", "moedeployments", EVERYWHERE),
    ("list", "", "secrets", EVERYWHERE),
    ("watch", "", "secrets", EVERYWHERE),
    ("delete", "", "secrets", EVERYWHERE),
    ("get", "", "configmaps", EVERYWHERE),
    ("create", "", "pods", EVERYWHERE),
    ("get", "", "pods", EVERYWHERE),
    ("deletecollection", "", "pods", EVERYWHERE),
    ("get", "", "nodes", EVERYWHERE),
    ("patch", "", "nodes", EVERYWHERE),
    ("delete", "ray.io", "rayclusters", EVERYWHERE),
    ("delete", "", "services", EVERYWHERE),
    ("create", "discovery.k8s.io", "endpointslices", EVERYWHERE),
    ("update", "coordination.k8s.io", "leases:another", "moe-system"),
    ("create", "coordination.k8s.io", "leases", EVERYWHERE),
    ("create", "rbac.authorization.k8s.io", "rolebindings", EVERYWHERE),
]


@pytest.mark.parametrize(("verb", "group", "resource", "namespace"), MAY)
def test_the_operator_may(installed: Kubectl, verb: str, group: str, resource: str, namespace: str) -> None:
    assert can(installed, OPERATOR, verb, group, resource, namespace)


@pytest.mark.parametrize(("verb", "group", "resource", "namespace"), MAY_NOT)
def test_the_operator_may_not(installed: Kubectl, verb: str, group: str, resource: str, namespace: str) -> None:
    assert not can(installed, OPERATOR, verb, group, resource, namespace)


PEOPLE = [
    # role in the namespace, verb, resource, may?
    ("edit", "create", "moedeployments", True),
    ("edit", "delete", "moedeployments", True),
    ("edit", "patch", "moedeployments/scale", True),
    ("edit", "update", "moedeployments/status", False),
    ("admin", "create", "moedeployments", True),
    ("view", "watch", "moedeployments", True),
    ("view", "patch", "moedeployments", False),
    ("edit", "create", "expertplacements", True),
    ("edit", "patch", "expertplacements", False),
    ("edit", "update", "expertplacements/status", False),
    ("admin", "patch", "expertplacements", True),
    ("moe-operator-approve", "patch", "expertplacements", True),
    ("moe-operator-approve", "create", "expertplacements", False),
    ("view", "watch", "expertplacements", True),
    ("view", "patch", "expertplacements", False),
]


@pytest.mark.parametrize(("role", "verb", "resource", "may"), PEOPLE)
def test_people_get_their_rights_by_the_usual_roles(
    installed: Kubectl, namespace: str, role: str, verb: str, resource: str, may: bool
) -> None:
    installed.run("create", "rolebinding", role, f"--clusterrole={role}", "--user=jane", "-n", namespace)
    assert can(installed, "jane", verb, "moe-operator.io", resource, namespace) is may
    assert not can(installed, "jane", verb, "moe-operator.io", resource, "default")
