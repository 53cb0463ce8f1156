"""The embedded control plane validates, authorizes and collects garbage like any; several live side by side."""

import json
import os
import ssl
import stat
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from moe_dev import binaries
from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl, KubectlError
from moe_dev.pki import Authority
from moe_dev.processes import ProcessError

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
        assert time.monotonic() < deadline, f"waited {COLLECTED_SECONDS:.0f} s for the child to go after its owner"
        time.sleep(0.2)


def test_unknown_fields_are_errors(kube: Kubectl, namespace: str) -> None:
    with pytest.raises(KubectlError, match=r'unknown field "metadata\.colour"'):
        kube.apply(config_map("odd", colour="red"), namespace=namespace)
    assert kube.get("configmap", "odd", namespace) is None


def test_writes_of_others_are_in_the_audit_log(controlplane: ControlPlane, namespace: str) -> None:
    controlplane.kubectl.run("create", "rolebinding", "writer", "--clusterrole=edit", "--user=auditee", "-n", namespace)
    controlplane.user("auditee").apply(config_map("noted"), namespace=namespace)
    entries = [json.loads(line) for line in controlplane.audit_log.read_text().splitlines()]
    mine = [entry for entry in entries if entry["user"].get("username") == "auditee"]
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


def test_a_strict_client_is_served(controlplane: ControlPlane) -> None:
    """As Python is from 3.13 on; without a certificate of its own it is nobody, but it trusts the server."""
    context = ssl.create_default_context(cafile=controlplane.directory / "ca.crt")
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with urllib.request.urlopen(f"{controlplane.url}/version", context=context, timeout=30) as answer:
        assert json.load(answer)["gitVersion"]


@pytest.mark.parametrize(
    ("trusted", "says"),
    [("server", "the server's certificate is refused"), ("user", "the administrator's certificate is refused")],
)
def test_a_refused_certificate_ends_the_start_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: str, says: str
) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Authority(tmp_path / "stranger")
    pair = stranger.server() if trusted == "server" else stranger.user("administrator", ["system:masters"])
    monkeypatch.setattr(Authority, trusted, lambda *_: pair)
    with pytest.raises(ProcessError, match=f"readyz is of no use: {says}"):
        ControlPlane.start(tmp_path / "plane")


def test_a_start_without_etcd_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """kube-apiserver itself goes on asking for it."""
    start_etcd = ControlPlane._start_etcd

    def start_and_crash(plane: ControlPlane) -> None:
        start_etcd(plane)
        (etcd,) = plane.processes
        etcd.wait_until("its socket", lambda: None if (plane.directory / "etcd.sock").exists() else "not there", 60)
        etcd.kill()

    monkeypatch.setattr(ControlPlane, "_start_etcd", start_and_crash)
    with pytest.raises(ProcessError, match=r"etcd ended with 137 while waiting for .*/readyz"):
        ControlPlane.start(tmp_path / "plane")
