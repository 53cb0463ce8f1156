"""Every shell command of docs/install.md and docs/operations.md runs, here or in the test that the table names: one
that neither table has is run here, and fails unless it works."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from documented import commands
from fake_ray import FakeRay, running
from kube_rest import fresh_namespace
from placement_objects import content, manifest, moved

from moe_dev import binaries
from moe_dev.helm import CHART
from moe_dev.kube import Kubectl, write_private
from moe_dev.paths import CLONE

pytestmark = pytest.mark.e2e

DOCS = CLONE / "docs"
TOKEN = "t" * 43
# The chart's CRDs and roles for people are there from operator/manifests, which the tests of the operator need.
BESIDE = " --set crds.enabled=false --set userRoles.create=false"
# Commands that another test runs, and which.
ELSEWHERE = {
    "helm test moe-operator --namespace moe-system": ("test_helm_test_makes_an_object_and_sees_it_worked_and_let_go"),
    "helm uninstall moe-operator --namespace moe-system": (
        "test_an_uninstall_is_refused_while_an_object_needs_the_operator"
    ),
    "moe-operator run": "test_it_waits_for_the_kind_and_says_so_and_stops_when_asked",
    "moe-operator run --namespace team-a --lease-name moe-operator-a": (
        "test_two_of_one_namespace_each_live_beside_each_other"
    ),
    "moe-operator run --namespace team-b --lease-name moe-operator-b": (
        "test_two_of_one_namespace_each_live_beside_each_other"
    ),
    "$ moe-placement compare /var/lib/moe-traces --nodes 2 --shards 4 --slots 20": (
        "test_compare_shows_all_contestants"
    ),
}
# Commands that need what no test may have, and what that is.
BY_HAND = {
    "apt-get install --no-install-recommends buildah mmdebstrap": "changes the machine",
    "make images": "takes minutes and root; `make images-check` builds the image and starts it",
    "buildah --root ~/.cache/moe-operator/images --runroot ~/.cache/moe-operator/images/run push "
    "localhost/moe-operator:latest REGISTRY/moe-operator:0.2.0": "needs a registry",
}


@dataclass
class Bench:
    """A shell with kubectl and helm as administrator of one namespace; `prepare` plays the operator's and nodes' parts
    before a command."""

    kube: Kubectl
    namespace: str
    other: str
    folder: Path
    ray: FakeRay
    prepare: dict[str, Callable[[], object]] = field(default_factory=dict)

    @property
    def release(self) -> str:
        return f"documented-{self.namespace.rpartition('-')[2]}"

    @property
    def node(self) -> str:
        """Of no machine: it is there where a command needs it."""
        return f"node-{self.namespace}"

    def run(self, command: str) -> None:
        if (before := self.prepare.get(command)) is not None:
            before()
        ended = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self.meant(command)],
            cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=90,
        )  # fmt: skip
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"

    def meant(self, command: str) -> str:
        """With the names of this bench in place of the document's, and without what would take what others need."""
        for name, mine in (("moe-system", self.namespace), ("team-a", self.other), ("…", self.namespace)):
            command = command.replace(name, mine)
        if command.startswith("helm "):
            command = re.sub(r"(?<=^helm install |^helm upgrade )moe-operator", self.release, command)
            command = command.replace("helm rollback moe-operator", f"helm rollback {self.release}")
            command += BESIDE if command.startswith("helm install") else ""
        command = command.replace("deployment/moe-operator", f"deployment/{self.release}-moe-operator")
        command = command.replace("REGISTRY", "registry.example.org")
        if " NODE" in command:
            self.kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.node}})
            command = command.replace(" NODE", f" {self.node}")
        if command == "kubectl delete -f crds/":
            command += " --dry-run=server"
        kuberay = binaries.binary(binaries.KUBERAY_MANIFESTS) / "default"
        command = re.sub(r"-k 'github\.com/ray-project/kuberay/[^']*'", f"--dry-run=client -k {kuberay}", command)
        return command.replace("http://RAY:8265", self.ray.url).replace('"UID"', json.dumps(self.uid("xp", "tiny-r2")))

    def environment(self) -> dict[str, str]:
        programs = {str(binaries.binary(name).parent) for name in (binaries.KUBECTL, binaries.HELM)}
        own = {f"HELM_{what}_HOME": str(self.folder / "helm") for what in ("CACHE", "CONFIG", "DATA")}
        path = os.pathsep.join([*sorted(programs), os.environ["PATH"]])
        token = write_private(self.folder / "token", TOKEN)
        mine = {"KUBECONFIG": str(self.kube.kubeconfig), "RAY_AUTH_TOKEN_PATH": str(token), "HF_TOKEN": "hf_x"}
        return {**os.environ, **own, **mine, "PATH": path}

    def uid(self, kind: str, name: str) -> str:
        return str((self.kube.get(kind, name, self.namespace) or {}).get("metadata", {}).get("uid", ""))

    def says(self, kind: str, name: str, condition: str, status: str = "True") -> Callable[[], object]:
        """The operator's part: a condition, of the newest generation, as kubectl asks for it."""
        said = {
            "type": condition, "status": status, "reason": "Played", "message": "", "observedGeneration": 99,
            "lastTransitionTime": "2026-01-02T03:04:05Z",
        }  # fmt: skip
        return lambda: self.status(kind, name, conditions=[said])

    def status(self, kind: str, name: str, **fields: object) -> None:
        patch = json.dumps({"status": fields})
        self.kube.run("patch", kind, name, "--subresource=status", "--type=merge", "-p", patch)

    def secret(self, name: str, **values: str) -> None:
        self.kube.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": values})


@pytest.fixture
def bench(installed: Kubectl, tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        mine, other = (stack.enter_context(fresh_namespace(installed.kubeconfig)) for _ in range(2))
        ray = stack.enter_context(running(FakeRay(token=TOKEN)))
        text = installed.run("config", "view", "--minify", "--flatten", "--raw", "-o", "json")
        config = json.loads(text)
        config["contexts"][0]["context"]["namespace"] = mine
        kube = Kubectl(installed.binary, write_private(tmp_path / "kubeconfig", json.dumps(config)))
        for folder in ("charts", "crds", "operator", "benchmarks"):
            (tmp_path / folder).symlink_to(CLONE / folder)
        made = Bench(kube, mine, other, tmp_path, ray)
        stack.callback(kube.run, "delete", "node", made.node, "--ignore-not-found")
        yield made


def here(document: str) -> list[str]:
    """Those of a document that this file runs."""
    return [each for each in commands(DOCS / document) if each not in ELSEWHERE and each not in BY_HAND]


def test_the_commands_for_an_installation(bench: Bench) -> None:
    exposed = re.search(r"^```yaml\n(exposed:.*?)^```$", (DOCS / "install.md").read_text(), re.MULTILINE | re.DOTALL)
    assert exposed is not None
    (bench.folder / "exposed.yaml").write_text(exposed.group(1).replace("team-a", bench.other))
    rolled_out = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
    deployment = f"{bench.release}-moe-operator"
    bench.prepare["kubectl -n moe-system rollout status deployment/moe-operator"] = lambda: bench.status(
        "deployment", deployment, observedGeneration=1, **rolled_out
    )
    bench.kube.apply(tiny("http://ray:1"))
    for command in here("install.md"):
        bench.run(command)
    assert bench.kube.get("moe", "tiny", bench.namespace) is None
    assert bench.kube.get("ingress", "tiny-moe-api", bench.other) is not None


@pytest.mark.long
def test_the_commands_for_operations(bench: Bench) -> None:
    bench.kube.apply(tiny(bench.ray.url), manifest(content(moved(), 1, 0), namespace=bench.namespace))
    for name in ("tiny-moe-internal", "tiny-moe-ray-token"):
        bench.secret(name, key=TOKEN)
    bench.secret("keys", jane=TOKEN)
    bench.secret("ray-token", token="another")
    bench.folder.joinpath("model").mkdir()
    bench.folder.joinpath("model", "config.json").write_text("{}")
    mine = {"name": "moe.NAMESPACE.NAME.HASH", "import_path": "moe_serving.serve.app:core"}
    bench.ray.configs = {each["name"]: each for each in (mine, bench.ray.shop)}
    chart = f"helm install moe-operator {CHART} --namespace moe-system"
    bench.prepare |= {
        "helm upgrade moe-operator charts/moe-operator --namespace moe-system --reuse-values": lambda: bench.run(chart),
        "kubectl wait --for=jsonpath='{.status.readyShards}'=4 moe/tiny --timeout=10m": lambda: bench.status(
            "moe", "tiny", readyShards=4
        ),
        "kubectl wait --for=condition=Progressing moe/tiny --timeout=6m": bench.says("moe", "tiny", "Progressing"),
        "kubectl wait --for=condition=Progressing=False moe/tiny --timeout=15m": bench.says(
            "moe", "tiny", "Progressing", "False"
        ),
        "kubectl wait --for=condition=Drained moe/tiny --timeout=10m": bench.says("moe", "tiny", "Drained"),
        "kubectl wait --for=condition=Active xp/tiny-r2": bench.says("xp", "tiny-r2", "Active"),
        'kubectl create secret generic ray-token --from-file=token="$RAY_AUTH_TOKEN_PATH"': lambda: bench.kube.run(
            "delete", "secret", "ray-token"
        ),
    }
    for command in here("operations.md"):
        bench.run(command)
    assert list(bench.ray.configs) == ["shop"]
    moe = bench.kube.get("moe", "tiny", bench.namespace) or {}
    assert moe["spec"]["experts"]["shards"] == 4
    assert (bench.kube.get("xp", "tiny-r2", bench.namespace) or {})["spec"]["decision"] == "Approved"
    keys = (bench.kube.get("secret", "keys", bench.namespace) or {})["data"]
    assert set(keys) == {"jane-2"}


def test_what_runs_elsewhere_is_in_the_documents_and_the_tests() -> None:
    written = {each for document in ("install.md", "operations.md") for each in commands(DOCS / document)}
    assert set(ELSEWHERE) | set(BY_HAND) <= written
    texts = "\n".join(path.read_text() for path in (CLONE / "tests").rglob("test_*.py"))
    assert [name for name in ELSEWHERE.values() if f"def {name}(" not in texts] == []


def tiny(url: str) -> dict[str, object]:
    runtime = {"rayCluster": {"dashboardURL": url, "serveURL": "http://127.0.0.1:8000"}}
    return {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "tiny"},
        "spec": {"model": {"source": {"path": "/models/tiny"}}, "experts": {"shards": 2}, "runtime": runtime},
    }
