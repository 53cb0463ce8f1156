"""Releases of the chart on a real API server: installed, upgraded, beside each other, and gone again."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from access_review import can
from fake_ray import FakeRay
from moe_objects import Objects
from releases import Release

from moe_dev.helm import CHART, Helm, HelmError
from moe_dev.kube import Kubectl
from moe_dev.paths import CLONE

pytestmark = pytest.mark.e2e

# What the cluster has from operator/manifests, since the tests of the operator need it.
BESIDE = {"userRoles": {"create": False}}
CRDS = sorted((CLONE / "crds").glob("*.yaml"))
NAMES = [yaml.safe_load(path.read_text())["metadata"]["name"] for path in CRDS]


def versions(kube: Kubectl) -> list[dict]:
    return [kube.get("crd", name)["spec"]["versions"] for name in NAMES]


@pytest.fixture
def release(helm: Helm, installed: Kubectl, namespace: str) -> Release:
    installed.run("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
    return Release(helm, installed, namespace)


def older_chart(directory: Path) -> Path:
    """The chart of a release before this one, whose kinds had fewer columns."""
    chart = directory / "older"
    shutil.copytree(CHART, chart)
    about = chart / "Chart.yaml"
    about.write_text(about.read_text().replace("ersion: 0.2.0", "ersion: 0.0.9"))
    for path in sorted((chart / "files/crds").glob("*.yaml")):
        crd = yaml.safe_load(path.read_text())
        del crd["spec"]["versions"][0]["additionalPrinterColumns"][1:]
        path.write_text(yaml.safe_dump(crd))
    return chart


def test_crds_are_upgraded_and_rolled_back_with_the_release_and_outlive_it_with_their_objects(
    release: Release, tmp_path: Path, installed: Kubectl
) -> None:
    wanted = versions(installed)
    try:
        release.helm.run(
            "install", release.name, str(older_chart(tmp_path)), f"--namespace={release.namespace}",
            "--take-ownership", values=BESIDE,
        )  # fmt: skip
        assert versions(installed) != wanted
        release.upgrade(**BESIDE)
        assert versions(installed) == wanted
        release.kubectl.apply(
            Objects(installed, release.namespace).manifest("kept", FakeRay(url="http://ray:1").spec())
        )
        # The way back, by one release, and forward again: objects stay, and are read by either.
        for step, is_ours in ((lambda: release.rollback(1), False), (lambda: release.upgrade(**BESIDE), True)):
            step()
            assert (versions(installed) == wanted) is is_ours
            labels = release.pod()["metadata"]["labels"]
            assert (labels["helm.sh/chart"] == "moe-operator-0.0.9") is not is_ours
            assert installed.get("moedeployments", "kept", release.namespace) is not None
        release.uninstall("--no-hooks")
        assert release.objects() == []
        assert versions(installed) == wanted
        assert installed.get("moedeployments", "kept", release.namespace) is not None
    finally:
        installed.apply(*CRDS)


def test_a_release_takes_over_what_was_installed_by_hand(helm: Helm, installed: Kubectl) -> None:
    by_hand = Release(helm, installed, "moe-system", "moe-operator")
    try:
        with pytest.raises(HelmError, match="invalid ownership metadata"):
            by_hand.install()
        by_hand.install("--take-ownership")
        assert by_hand.pod()["spec"]["serviceAccountName"] == "moe-operator"
        assert {"ServiceAccount", "ClusterRole", "Role"} <= {each["kind"] for each in by_hand.objects()}
        owners = [installed.get("crd", name)["metadata"]["annotations"]["meta.helm.sh/release-name"] for name in NAMES]
        assert owners == ["moe-operator"] * len(NAMES)
    finally:
        by_hand.uninstall("--no-hooks", "--ignore-not-found")
        installed.apply(*CRDS, *sorted((CLONE / "operator/manifests").glob("*.yaml")))


def test_its_pods_are_admitted_where_the_restricted_standard_is_enforced(release: Release, installed: Kubectl) -> None:
    release.install(**BESIDE, crds={"enabled": False}, activator={"enabled": True})
    hooks = release.helm.run("get", "hooks", release.name, f"--namespace={release.namespace}")
    by_kind = {each["kind"]: each for each in yaml.safe_load_all(hooks) if each}
    account = by_kind["ServiceAccount"]
    installed.apply(account)
    pods = {
        "operator": release.pod(),
        "activator": release.pod("-activator"),
        "uninstall": by_kind["Job"]["spec"]["template"],
        "trial": {"metadata": {}, "spec": by_kind["Pod"]["spec"]},
    }
    for name, template in pods.items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] = {**template["metadata"], "name": name, "namespace": release.namespace}
        installed.run("create", "--dry-run=server", "--validate=strict", "-f", "-", text=json.dumps(pod))
        assert all(each["securityContext"]["readOnlyRootFilesystem"] for each in pod["spec"]["containers"])
    assert {each["kind"] for each in release.objects()} == {
        "Deployment", "Role", "ClusterRole", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy",
    }  # fmt: skip


@pytest.mark.long
def test_two_of_one_namespace_each_live_beside_each_other(
    helm: Helm, installed: Kubectl, namespace: str, second_namespace: str, tmp_path: Path, ray: FakeRay
) -> None:
    """Neither makes anything cluster-wide, sees the other's objects, or waits for the other's Lease."""
    places = (namespace, second_namespace)
    started = []
    try:
        for place in places:
            release = Release(helm, installed, place, "moe-operator")
            release.install(namespaces=[place], crds={"enabled": False})
            kinds = [each["kind"] for each in release.objects() if each["metadata"].get("namespace") == place]
            assert sorted(kinds).count("Role") == 5
            assert release.rules("ClusterRole") == []
            started.append(release.start_operator(tmp_path))
        for place, other in (places, places[::-1]):
            account = f"system:serviceaccount:{place}:moe-operator"
            assert can(installed, account, "patch", "moe-operator.io", "moedeployments", place)
            assert not can(installed, account, "get", "moe-operator.io", "moedeployments", other)
            assert not can(installed, account, "get", "", "secrets", other)
            objects = Objects(installed, place)
            objects.apply("tiny", ray.spec())
            objects.wait_ready("tiny")
            objects.let_go()
    finally:
        for operator in started:
            operator.stop()


@pytest.mark.long
def test_an_uninstall_is_refused_while_an_object_needs_the_operator(
    release: Release, tmp_path: Path, ray: FakeRay, installed: Kubectl
) -> None:
    values = {"namespaces": [release.namespace], "crds": {"enabled": False}}
    release.install(**values)
    objects = Objects(installed, release.namespace)
    operator = release.start_operator(tmp_path)
    job = f"{release.name}-uninstall"
    try:
        objects.apply("tiny", ray.spec())
        objects.wait_ready("tiny")
        with release.node("job", job, tmp_path) as written, pytest.raises(HelmError, match=job):
            release.uninstall("--timeout=60s")
        assert f"need the operator for their deletion: {release.namespace}/tiny." in "".join(written)
        assert installed.get("deployment", release.name, release.namespace) is not None
        # Helm takes the release for one that is on its way out, until it is told otherwise.
        with pytest.raises(HelmError, match="has no deployed releases"):
            release.upgrade(**values)
        release.rollback(1)
        release.upgrade(**values, replicas=3)
        assert installed.get("deployment", release.name, release.namespace)["spec"]["replicas"] == 3
        objects.delete("tiny")
        objects.wait_gone("tiny")
        with release.node("job", job, tmp_path):
            release.uninstall("--timeout=60s")
        assert release.objects() == []
    finally:
        operator.stop()


def test_helm_test_makes_an_object_and_sees_it_worked_and_let_go(
    release: Release, tmp_path: Path, installed: Kubectl
) -> None:
    release.install(namespaces=[release.namespace], crds={"enabled": False})
    operator = release.start_operator(tmp_path)
    try:
        with release.node("pod", f"{release.name}-trial", tmp_path) as written:
            said = release.helm.run("test", release.name, f"--namespace={release.namespace}", "--timeout=90s")
        assert "Phase:          Succeeded" in said
        assert "RuntimeReachable=False RayUnreachable" in "".join(written)
        assert Objects(installed, release.namespace).names() == []
        # A pod that outlives Helm's patience has its rights until it has deleted its object.
        for kind in ("serviceaccount", "role", "rolebinding"):
            assert installed.get(kind, f"{release.name}-trial", release.namespace) is not None
    finally:
        operator.stop()
