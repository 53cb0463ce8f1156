"""A demo in somebody's cluster keeps to its namespace and changes nothing else, or says why it does not run."""

import datetime
from collections.abc import Iterator
from pathlib import Path

import pytest
from access_review import can
from fake_ray import FakeDirectory, FakeRay, running
from moe_facts import FACTS
from moe_objects import Objects

from moe_dev import own_cluster
from moe_dev.controlplane import ControlPlane
from moe_dev.demo_cluster import Cluster
from moe_dev.kube import Kubectl
from moe_dev.operator_process import CRDS, install_crds
from moe_dev.own_cluster import ClusterRefusedError, confined, demo_namespace, is_held

NOW = datetime.datetime(2026, 5, 1, 12, 0, 0, tzinfo=datetime.UTC)
CRD = "moedeployments.moe-operator.io"
OPERATOR = "system:serviceaccount:moe-demo:moe-operator"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """A cluster whose CRD may be changed: not the session's."""
    with ControlPlane.start(tmp_path_factory.mktemp("own")) as plane:
        yield plane.kubectl


def version_of_crd(kubectl: Kubectl) -> str:
    found = kubectl.get("crd", CRD)
    assert found is not None
    # Not the resourceVersion: the API server goes on to write the status of a kind that is new.
    return f"{found['metadata']['uid']} {found['metadata']['generation']}"


@pytest.mark.parametrize(
    ("lease", "held"),
    [
        ({"holderIdentity": "a", "renewTime": "2026-05-01T11:59:50.000000Z", "leaseDurationSeconds": 15}, True),
        ({"holderIdentity": "a", "renewTime": "2026-05-01T12:00:05.000000Z", "leaseDurationSeconds": 15}, True),
        ({"holderIdentity": "a", "renewTime": "2026-05-01T11:59:00.000000Z", "leaseDurationSeconds": 15}, False),
        ({"holderIdentity": "", "renewTime": "2026-05-01T11:59:59.000000Z", "leaseDurationSeconds": 1}, False),
        ({}, False),
    ],
)
def test_a_lease_is_held_while_it_is_renewed(lease: dict[str, object], held: bool) -> None:
    assert is_held(lease, NOW) is held


def test_rights_for_a_cluster_become_rights_in_one_namespace() -> None:
    binding = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "robot"},
        "roleRef": {"kind": "ClusterRole", "name": "robot"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "elsewhere"}],
    }
    account = {"kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "elsewhere"}}
    assert confined([account, binding], "here") == [
        {"kind": "ServiceAccount", "metadata": {"name": "robot", "namespace": "here"}},
        {
            "kind": "RoleBinding",
            "metadata": {"name": "robot", "namespace": "here"},
            "roleRef": {"kind": "Role", "name": "robot"},
            "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "here"}],
        },
    ]
    assert account["metadata"]["namespace"] == "elsewhere"


@pytest.mark.e2e
def test_all_but_the_crd_is_in_a_namespace_that_goes(own: Kubectl, capsys: pytest.CaptureFixture[str]) -> None:
    own.run("delete", "crd", CRD, "--ignore-not-found")
    with demo_namespace(own):
        assert can(own, OPERATOR, "list", "moe-operator.io", "moedeployments", "moe-demo")
        assert not can(own, OPERATOR, "update", "coordination.k8s.io", "leases", "moe-demo")  # but the one of its name
        assert can(own, OPERATOR, "create", "coordination.k8s.io", "leases", "moe-demo")
        assert not can(own, OPERATOR, "list", "moe-operator.io", "moedeployments", "default")
        assert not can(own, OPERATOR, "get", "", "secrets", "default")
        assert own.get("namespace", "moe-system") is None
        assert "moe-operator" not in own.run("get", "clusterroles,clusterrolebindings", "-o", "name")
    assert own.get("namespace", "moe-demo") is None
    assert "what stays in your cluster: kubectl delete -f crds" in capsys.readouterr().out


@pytest.mark.e2e
def test_the_operator_does_all_its_work_with_the_rights_it_has_there(own: Kubectl, tmp_path: Path) -> None:
    cluster = Cluster(own, "moe-demo", own=True)
    with running(FakeRay(report=FakeDirectory(FACTS))) as ray, demo_namespace(own):
        operator = cluster.start_operator(tmp_path)
        try:
            objects = Objects(own, cluster.namespace)
            objects.apply("tiny", ray.spec())
            objects.wait_ready("tiny")
            objects.delete("tiny")
            objects.wait_gone("tiny")
        finally:
            operator.stop()
    assert "forbidden" not in operator.process.log.read_text().lower()


@pytest.mark.e2e
def test_a_crd_is_used_as_it_is_and_never_replaced(own: Kubectl, capsys: pytest.CaptureFixture[str]) -> None:
    install_crds(own, CRDS)
    before = version_of_crd(own)
    with demo_namespace(own):
        pass
    assert version_of_crd(own) == before
    assert "stays" not in capsys.readouterr().out
    own.run("patch", "crd", CRD, "--type=merge", '--patch={"spec":{"names":{"shortNames":["moe","other"]}}}')
    before = version_of_crd(own)
    with pytest.raises(ClusterRefusedError, match=r"of another version: .*kubectl apply -f crds"), demo_namespace(own):
        pass
    assert version_of_crd(own) == before
    assert own.get("namespace", "moe-demo") is None
    own.apply(CRDS)


@pytest.mark.e2e
def test_a_namespace_that_exists_is_refused_and_left(own: Kubectl) -> None:
    own.run("create", "namespace", "moe-demo")
    own.run("create", "configmap", "precious", "--namespace", "moe-demo")
    with (
        pytest.raises(
            ClusterRefusedError, match=r"namespace moe-demo exists already: .*kubectl delete namespace moe-demo"
        ),
        demo_namespace(own),
    ):
        pass
    assert own.get("configmap", "precious", "moe-demo") is not None
    own.run("delete", "namespace", "moe-demo")


@pytest.mark.e2e
def test_an_operator_at_work_is_not_disturbed(own: Kubectl, monkeypatch: pytest.MonkeyPatch) -> None:
    renewed = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    spec = {"holderIdentity": "pod-1", "renewTime": renewed, "leaseDurationSeconds": 600}
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "moe-operator"}}
    own.apply({**lease, "spec": spec}, namespace="default")
    with (
        pytest.raises(ClusterRefusedError, match=r"Lease moe-operator in namespace default, held by pod-1\)"),
        demo_namespace(own),
    ):
        pass
    assert own.get("namespace", "moe-demo") is None
    monkeypatch.setenv(own_cluster.BESIDE_OPERATOR, "1")
    with demo_namespace(own):
        assert own.get("serviceaccount", "moe-operator", "moe-demo") is not None
    own.run("delete", "lease", "moe-operator", "--namespace", "default")
