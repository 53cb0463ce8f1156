"""The embedded control plane validates, authorizes and collects garbage like any; several live side by side."""

import json
import os
import stat
import time
from pathlib import Path

import pytest

from moe_dev import binaries
from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl, KubectlError

pytestmark = pytest.mark.e2e

COLLECTED_SECONDS = 60.0


def config_map(name: str, **metadata: object) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


@pytest.mark.skipif("KUBEBUILDER_ASSETS" in os.environ, reason="serves the release that is there")
def test_serves_the_pinned_release(kube: Kubectl) -> None:
    versions = json.loads(kube.run("version", "-o", "json"))
    assert versions["serverVersion"]["gitVersion"] == binaries.kubernetes_version()
    assert versions["clientVersion"]["gitVersion"] == binaries.kubernetes_version()


def test_rights_are_those_of_rbac(controlplane: ControlPlane, namespace: str) -> None:
    alice = controlplane.user("alice", ["developers"])
    with pytest.raises(KubectlError, match='User "alice" cannot list resource "configmaps"'):
        alice.run("get", "configmaps", "--namespace", namespace)
    kube = controlplane.kubectl
    kube.run("create", "rolebinding", "readers", "--clusterrole=view", "--group=developers", "-n", namespace)
    alice.run("get", "configmaps", "--namespace", namespace)
    with pytest.raises(KubectlError, match='cannot create resource "configmaps"'):
        alice.apply(config_map("mine"), namespace=namespace)


def test_a_service_account_has_its_own_rights(kube: Kubectl, namespace: str, tmp_path: Path) -> None:
    kube.run("create", "serviceaccount", "robot", "--namespace", namespace)
    robot = Kubectl(kube.binary, kube.service_account_kubeconfig(namespace, "robot", tmp_path / "robot.kubeconfig"))
    assert f"system:serviceaccount:{namespace}:robot" in robot.run("auth", "whoami")
    with pytest.raises(KubectlError, match=f'"system:serviceaccount:{namespace}:robot" cannot get'):
        robot.apply(config_map("mine"), namespace=namespace)


def test_children_go_with_their_owner(kube: Kubectl, namespace: str) -> None:
    kube.apply(config_map("owner"), namespace=namespace)
    owner = kube.get("configmap", "owner", namespace)
    assert owner is not None
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
    kube.apply(config_map("child", ownerReferences=[reference]), namespace=namespace)
    kube.run("delete", "configmap", "owner", "--namespace", namespace)
    deadline = time.monotonic() + COLLECTED_SECONDS
    while kube.get("configmap", "child", namespace) is not None:
        assert time.monotonic() < deadline, f"the child is still there {COLLECTED_SECONDS:.0f} s after its owner"
        time.sleep(0.2)


def test_unknown_fields_are_errors(kube: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError, match=r'unknown field "metadata\.colour"'):
        kube.apply(config_map("odd", colour="red"), namespace=namespace)
    assert kube.get("configmap", "odd", namespace) is None


def test_writes_of_others_are_in_the_audit_log(controlplane: ControlPlane, namespace: str) -> None:
    controlplane.kubectl.run("create", "rolebinding", "writer", "--clusterrole=edit", "--user=auditee", "-n", namespace)
    controlplane.user("auditee").apply(config_map("noted"), namespace=namespace)
    entries = [json.loads(line) for line in controlplane.audit_log.read_text().splitlines()]
    mine = [entry for entry in entries if entry["user"]["username"] == "auditee"]
    assert [(entry["verb"], entry["objectRef"]["name"]) for entry in mine] == [("create", "noted")]
    assert not [entry for entry in entries if "system:masters" in entry["user"].get("groups", [])]


def test_two_live_side_by_side_and_one_ends_alone(controlplane: ControlPlane, tmp_path: Path, namespace: str) -> None:
    with ControlPlane.start(tmp_path / "second") as second:
        assert second.url != controlplane.url
        assert second.kubectl.get("namespace", namespace) is None
        assert stat.S_IMODE(second.directory.stat().st_mode) == 0o700
        readable = [path for path in second.directory.rglob("*.key*") if stat.S_IMODE(path.stat().st_mode) & 0o077]
        assert not readable
    assert controlplane.kubectl.get("namespace", namespace) is not None
    with pytest.raises(KubectlError):
        second.kubectl.run("get", "--raw", "/readyz")
