"""``kubectl moe`` as kubectl runs it, by users who have its roles and no others, on a real API server with RBAC."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from access_review import can
from fake_ray import FakeDirectory, FakeRay
from moe_objects import Objects
from placement_objects import content, manifest, moved
from plugin_run import moe

from moe_contract.report import DirectoryReport, Traffic
from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_operator.kubectl.cluster import Cluster
from moe_operator.kubectl.exits import Exit, NotThereError
from moe_operator.kubectl.rights import RIGHTS
from moe_placement import Placement, balanced_placement
from moe_placement.encoding import encode_counts

pytestmark = pytest.mark.e2e

SEEN_SECONDS = 60
FIRST, OTHER = balanced_placement(6, 16, (8, 8), 1), moved(6, 16, 2, 8)
SPEC = {
    "model": {"source": {"path": "models/tiny"}},
    "runtime": {"rayCluster": {"dashboardURL": "http://127.0.0.1:1", "serveURL": "http://127.0.0.1:2"}},
}
RBAC = "rbac.authorization.k8s.io"
Bindings = dict[str, tuple[str, str, tuple[str, str]]]
DIGEST = "sha256:1"
TIME = "2026-01-02T03:04:05Z"


def condition(kind: str, status: str, reason: str, message: str) -> dict[str, Any]:
    told = {"type": kind, "status": status, "reason": reason, "message": message}
    return told | {"observedGeneration": 1, "lastTransitionTime": TIME}


class Stage:
    """A deployment with placements, as an operator would have left them, in one namespace."""

    def __init__(self, kube: Kubectl, namespace: str) -> None:
        self.kube = kube
        self.namespace = namespace
        self.deploy("tiny", revision=2)
        self.place(FIRST, 1, "Superseded")
        self.place(OTHER, 2, "Active")

    def deploy(self, name: str, revision: int) -> None:
        body = {"apiVersion": "moe-operator.io/v1alpha1", "kind": "MoEDeployment", "spec": SPEC}
        self.kube.apply({**body, "metadata": {"name": name, "namespace": self.namespace}})
        ready = condition("Ready", "True", "Available", "all of it\x1b[2J answers")
        status = {
            "shards": 2,
            "slotsPerShard": 8,
            "placement": {"revision": revision, "epoch": 3},
            "conditions": [ready],
        }
        self._tell("moe", name, status)

    def place(self, placement: Placement, revision: int, phase: str | None) -> None:
        """``phase``: None for one that nobody has looked at."""
        self.kube.apply(manifest(content(placement, revision, revision - 1, DIGEST), namespace=self.namespace))
        if phase:
            self._tell("xp", f"tiny-r{revision}", {"phase": phase})

    def get(self, kind: str, name: str) -> dict[str, Any]:
        return self.kube.get(kind, name, self.namespace) or {}

    def _tell(self, kind: str, name: str, status: dict[str, Any]) -> None:
        self._patch(kind, name, {"status": status}, "--subresource=status")

    def _patch(self, kind: str, name: str, patch: dict[str, Any], *more: str) -> None:
        self.kube.run("patch", kind, name, "-n", self.namespace, "--type=merge", "-p", json.dumps(patch), *more)


@pytest.fixture
def stage(objects: Objects) -> Stage:
    return Stage(objects.kube, objects.namespace)


@pytest.fixture
def users_with(controlplane: ControlPlane, stage: Stage) -> Callable[[Bindings], dict[str, Kubectl]]:
    """Users who have one role each in the namespace and no other, once the API server knows.

    Takes by user: kind and name of the role, and one of its rights.
    """

    def make(bindings: Bindings) -> dict[str, Kubectl]:
        names = {user: f"{user}.{stage.namespace}" for user in bindings}
        made = [
            {
                "apiVersion": f"{RBAC}/v1",
                "kind": "RoleBinding",
                "metadata": {"name": user, "namespace": stage.namespace},
                "roleRef": {"apiGroup": RBAC, "kind": kind, "name": role},
                "subjects": [{"apiGroup": RBAC, "kind": "User", "name": names[user]}],
            }
            for user, (kind, role, _) in bindings.items()
        ]
        stage.kube.apply({"apiVersion": "v1", "kind": "List", "items": made})
        # They are seen in the order in which they were made.
        user, (_, _, (verb, resource)) = list(bindings.items())[-1]
        deadline = time.monotonic() + SEEN_SECONDS
        while not can(stage.kube, names[user], verb, "moe-operator.io", resource, stage.namespace):
            assert time.monotonic() < deadline, f"waited {SEEN_SECONDS} s for {user} to be allowed to {verb} {resource}"
            time.sleep(0.2)
        return {user: controlplane.user(name) for user, name in names.items()}

    return make


SAID: dict[str, tuple[tuple[str, ...], str]] = {
    "status": (("tiny",), "revision 2"),
    "placement": (("tiny",), "which runs"),
    "top": (("tiny",), "no traffic has been counted yet"),
    "proposals": (("tiny",), "Superseded"),
    "explain": (("tiny", "2"), "copies to load: 96"),
    "diff": (("tiny", "1", "2"), "copies to load: 96"),
    "approve": (("tiny", "3"), "tiny-r3 is approved"),
    "reject": (("tiny", "4"), "tiny-r4 is rejected"),
    "rollback": (("tiny", "1"), "tiny-r5 has the content of revision 1"),
    "pause": (("tiny",), "is paused"),
    "resume": (("tiny",), "is not paused"),
    "drain": (("tiny", "1"), "drains shards 1"),
}


def test_each_command_with_its_rights_and_no_others(stage: Stage, users_with: Callable[..., Any]) -> None:
    stage.place(FIRST, 3, None)
    stage.place(FIRST, 4, None)
    assert SAID.keys() == RIGHTS.keys()
    roles = [
        {
            "apiVersion": f"{RBAC}/v1",
            "kind": "Role",
            "metadata": {"name": command, "namespace": stage.namespace},
            "rules": [
                {"apiGroups": ["moe-operator.io"], "resources": [each.resource], "verbs": [each.verb]}
                for each in rights
            ],
        }
        for command, rights in RIGHTS.items()
    ]
    stage.kube.apply({"apiVersion": "v1", "kind": "List", "items": roles})
    users = users_with({command: ("Role", command, rights[0]) for command, rights in RIGHTS.items()})
    for command, (arguments, said) in SAID.items():
        ended = moe(users[command], command, *arguments, "-n", stage.namespace)
        assert (ended.code, ended.err) == (Exit.DONE, ""), command
        assert said in ended.out.replace("\n", " "), command
        assert "\x1b" not in ended.out
    decided = {revision: stage.get("xp", f"tiny-r{revision}")["spec"]["decision"] for revision in (3, 4, 5)}
    assert decided == {3: "Approved", 4: "Rejected", 5: "Approved"}
    written = stage.get("xp", "tiny-r5")["spec"]["content"]
    assert written == content(FIRST, 5, 2, DIGEST)
    assert stage.get("moe", "tiny")["metadata"]["annotations"]["moe-operator.io/drain-shards"] == "1"


def test_who_lacks_a_role_is_told_which_and_leaves_nothing_behind(stage: Stage, users_with: Callable[..., Any]) -> None:
    stage.place(FIRST, 3, None)
    viewing, editing = ("get", "moedeployments"), ("create", "expertplacements")
    bindings = {
        "jane": ("ClusterRole", "moe-operator-view", viewing),
        "joe": ("ClusterRole", "moe-operator-edit", editing),
    }
    users, where = users_with(bindings), ("-n", stage.namespace)
    ended = moe(users["jane"], "approve", "tiny", "3", *where)
    assert (ended.code, ended.out) == (Exit.RIGHT_MISSING, "")
    assert "may not patch expertplacements.moe-operator.io" in ended.err
    assert f"--clusterrole=moe-operator-approve --user=jane.{stage.namespace} -n {stage.namespace}" in ended.err
    ended = moe(users["jane"], "pause", "tiny", *where)
    assert ended.code == Exit.RIGHT_MISSING
    assert "--clusterrole=moe-operator-edit" in ended.err
    ended = moe(users["joe"], "rollback", "tiny", "1", *where)
    assert ended.code == Exit.RIGHT_MISSING
    assert "--clusterrole=moe-operator-approve" in ended.err
    assert "nothing has changed" in ended.err
    assert stage.get("xp", "tiny-r4") == {}
    ended = moe(users["jane"], "status", "tiny", "-n", "default")
    assert ended.code == Exit.RIGHT_MISSING
    assert "--clusterrole=moe-operator-view" in ended.err


def test_what_cannot_be_done(stage: Stage, tmp_path: Path, closed_address: str) -> None:
    kube, where = stage.kube, ("-n", stage.namespace)
    elsewhere = json.loads(kube.kubeconfig.read_text())
    elsewhere["clusters"][0]["cluster"]["server"] = closed_address.replace("http", "https")
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(elsewhere))
    for line, code, words in (
        ("status none", Exit.NOT_THERE, '"none" not found'),
        ("explain tiny 9", Exit.NOT_THERE, '"tiny-r9" not found'),
        ("rollback tiny 2", Exit.REFUSED, "is what runs"),
        ("approve tiny nine", Exit.USAGE, "is no revision"),
        ("status tiny --context=nobody", Exit.FAILED, 'context "nobody" does not exist'),
        (f"status tiny --kubeconfig={path}", Exit.UNREACHABLE, "does not answer"),
    ):
        ended = moe(kube, *line.split(), *where)
        assert (ended.code, ended.out) == (code, ""), line
        assert words in ended.err
        assert len(ended.err.splitlines()) == 1


def test_one_of_the_same_name_in_another_namespace_stays_as_it_is(
    stage: Stage, second_namespace: str, request: pytest.FixtureRequest
) -> None:
    other = Stage(stage.kube, second_namespace)
    request.addfinalizer(Objects(stage.kube, second_namespace).let_go)
    before = other.get("moe", "tiny")["metadata"]
    for command in ("pause", "rollback"):
        assert moe(stage.kube, command, "tiny", "-n", stage.namespace).code == Exit.DONE
    assert stage.get("xp", "tiny-r3")["spec"]["decision"] == "Approved"
    assert other.get("xp", "tiny-r3") == {}
    assert other.get("moe", "tiny")["metadata"] == before
    told = json.loads(moe(stage.kube, "status", "tiny", "-o", "json", "-n", second_namespace).out)
    assert (told["namespace"], told["paused"], told["placement"]["revision"]) == (second_namespace, False, 2)


class BusyDirectory(FakeDirectory):
    """It has had requests."""

    def __call__(self, config: dict[str, Any]) -> DirectoryReport | None:
        report = super().__call__(config)
        traffic = Traffic(layer_rows=600, load=encode_counts(np.ones((6, 16), dtype=np.int64)), shares=(7500, 2500))
        return report and report.model_copy(update={"traffic": traffic})


def test_a_cluster_without_the_kinds(installed: Kubectl) -> None:
    cluster = Cluster((f"--kubeconfig={installed.kubeconfig}",), str(installed.binary))
    with pytest.raises(NotThereError, match="install its CustomResourceDefinitions"):
        cluster.get("experts", "tiny")


def test_a_placement_is_approved_and_rolled_back_and_top_tells_the_load(
    operator, objects: Objects, ray: FakeRay, directory: FakeDirectory
) -> None:
    ray.report = BusyDirectory(directory.facts)
    objects.apply("tiny", ray.spec())
    objects.wait_active("tiny-r1")
    objects.wait("the load to be told", lambda: "load" in objects.status("tiny"))
    told = json.loads(moe(objects.kube, "top", "tiny", "-o", "json", "-n", objects.namespace).out)["load"]
    assert told["shards"] == [0.75, 0.25]
    assert told["bands"][0]["experts"][0] == {"layer": 0, "expert": 0, "share": 1 / 16}
    objects.kube.apply(manifest(content(OTHER, 2, 1, directory.facts.digest), namespace=objects.namespace))
    objects.wait("it to be looked at", lambda: "phase" in objects.placement("tiny-r2").get("status", {}))
    where = ("-n", objects.namespace)
    assert moe(objects.kube, "approve", "tiny", "2", *where).code == Exit.DONE
    objects.wait_active("tiny-r2")
    # Which is told before what it replaced is told to be over.
    objects.wait("r1 to be over", lambda: objects.phase("tiny-r1") == "Superseded")
    objects.wait("it to be told", lambda: objects.status("tiny")["placement"]["revision"] == 2)
    ended = moe(objects.kube, "rollback", "tiny", *where)
    assert (ended.code, ended.err) == (Exit.DONE, "")
    objects.wait_active("tiny-r3")
    first, third = (objects.placement(f"tiny-r{revision}")["spec"]["content"] for revision in (1, 3))
    assert third == {**first, "revision": 3, "baseRevision": 2}
    assert objects.placement("tiny-r3")["status"]["origin"] == "Person"
    # What was written from a revision that is not in force any more is refused, with the operator's reason.
    objects.kube.apply(manifest(content(OTHER, 9, 2, directory.facts.digest), namespace=objects.namespace))
    objects.wait("it to fail", lambda: objects.phase("tiny-r9") == "Failed")
    ended = moe(objects.kube, "approve", "tiny", "9", *where)
    assert ended.code == Exit.REFUSED
    assert "revision 3 is in force by now" in ended.err
