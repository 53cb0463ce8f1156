"""What has died ends the process, and the probe says so first; what may not lead any more is gone at once.

The times are those of production divided, so that a test takes seconds: how they add up to less than a minute is looked
at in the tests of the parts.
"""

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_ray import FakeRay
from faulty_proxy import probe, proxied

from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_dev.operator_process import CRDS, OperatorProcess, install, install_crds, service_account

pytestmark = [pytest.mark.e2e, pytest.mark.waits]

MAIN = "import sys; from moe_operator.cli import main; sys.exit(main(sys.argv[1:]))"
SHORT_STREAMS = (
    "import moe_operator.process.watch as w; w.STREAM_SECONDS, w.DEAD_STREAM_SECONDS, w.LIMIT_SECONDS = 2, 3, 6; "
    "import moe_operator.process.supervisor as s; s.REFUSED_TOLD_SECONDS, s.REFUSED_SECONDS = 3, 12; "
)
RELEASE_SECONDS = 120
"""The operator lets an object go, and the API server its kind; seconds where the machine is idle."""
WATCH_SILENT = "watch(-of-expertplacements)? gave no sign of life"
"""Whichever of the two kinds is late first."""
HANGS = """
import asyncio, logging, time
from moe_operator.reconcile.reconciler import Reconciler

def hang():
    logging.getLogger("test").error("a pass hangs in a thread")
    time.sleep(600)

Reconciler._work = lambda self, *_: asyncio.to_thread(hang)
"""


class Operator:
    """``moe-operator run`` in a process of which the test changes the times or breaks a part."""

    def __init__(self, kubeconfig: Path, log: Path, changes: str, *arguments: str) -> None:
        self.log = log
        command = [sys.executable, "-c", changes + MAIN, "run", f"--kubeconfig={kubeconfig}", "--bind=127.0.0.1:0"]
        with log.open("wb") as output:
            self.process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output, cwd=log.parent)
        port = self.wait_for(r"/healthz and /metrics on \S+ port (\d+)").group(1)
        self.url = f"http://127.0.0.1:{port}"

    def wait_for(self, pattern: str, timeout: float = 60.0) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.log.read_text())):
            assert time.monotonic() < deadline, f"waited {timeout} s for {pattern!r} in:\n{self.log.read_text()}"
            time.sleep(0.1)
        return found

    def ended(self, timeout: float = 60.0) -> int:
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            pytest.fail(f"waited {timeout} s for its end:\n{self.log.read_text()}")

    def said_by_the_probe(self, pattern: str, timeout: float = 60.0) -> None:
        """Until /healthz is 503 with such a text; the process may end right after."""
        deadline, last = time.monotonic() + timeout, ""
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                code, last = probe(self.url)
                if code == 503 and re.search(pattern, last):
                    return
            time.sleep(0.1)
        pytest.fail(f"/healthz said last: {last!r}; the log:\n{self.log.read_text()}")


@pytest.fixture
def own_kubeconfig(installed: Kubectl, tmp_path: Path) -> Path:
    return installed.service_account_kubeconfig(*service_account(), tmp_path / "own.kubeconfig")


@pytest.fixture
def begin(own_kubeconfig: Path, tmp_path: Path) -> Iterator[Callable[..., Operator]]:
    started: list[Operator] = []

    def start(changes: str, *arguments: str) -> Operator:
        started.append(Operator(own_kubeconfig, tmp_path / f"operator-{len(started)}.log", changes, *arguments))
        return started[-1]

    yield start
    for operator in started:
        operator.process.kill()
        operator.process.wait(10)


@pytest.mark.long
def test_a_watch_that_hears_nothing_any_more_ends_the_process(
    begin, own_kubeconfig: Path, objects, ray: FakeRay
) -> None:
    with proxied(own_kubeconfig) as proxy:
        operator = begin(SHORT_STREAMS)
        operator.wait_for("leader of")
        objects.apply("tiny", ray.spec())
        objects.wait_ready("tiny")
        # Each stream is followed by another, which is no reason to worry.
        before = proxy.watches
        objects.wait("five more streams of each kind", lambda: proxy.watches >= before + 10)
        assert operator.process.poll() is None
        assert probe(operator.url) == (200, "ok\n")
        proxy.silent_watches = True
        operator.said_by_the_probe(rf"^{WATCH_SILENT} for \d+ s \(limit 6 s\)")
        assert operator.ended() == 1
    assert re.search(WATCH_SILENT, operator.log.read_text())


@pytest.mark.long
def test_a_standby_whose_credentials_have_ended_says_so_and_ends(
    begin, start_operator, own_kubeconfig: Path, objects
) -> None:
    leader = start_operator()
    with proxied(own_kubeconfig) as proxy:
        operator = begin(SHORT_STREAMS)
        holder = objects.kube.get("lease", "moe-operator", "moe-system")["spec"]["holderIdentity"]
        operator.wait_for(f"waiting for Lease moe-system/moe-operator, which {holder} holds: one operator works")
        assert probe(operator.url)[0] == 200
        proxy.refuses = True
        operator.said_by_the_probe("the API server has refused the operator's credentials for")
        assert operator.ended() == 3
    operator.wait_for("answered 401 Unauthorized for .* the token or certificate of the kubeconfig has ended")
    assert probe(leader.url)[0] == 200


def test_a_leader_that_lost_its_lease_is_gone_at_once_whatever_its_threads_do(begin, objects, ray: FakeRay) -> None:
    operator = begin(HANGS)
    operator.wait_for("leader of")
    objects.apply("tiny", ray.spec())
    operator.wait_for("a pass hangs in a thread")
    patch = '{"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 1}}'
    objects.kube.run("patch", "lease", "moe-operator", "-n", "moe-system", "--type=merge", "-p", patch)
    lost = time.monotonic()
    assert operator.ended() == 4
    # It looks every 2 s; what it has in hand is not waited for.
    assert time.monotonic() - lost < 10
    assert "is not ours or was not renewed" in operator.log.read_text()
    assert objects.kube.get("lease", "moe-operator", "moe-system")["spec"]["holderIdentity"] == "somebody-else"


def test_a_process_whose_threads_hang_ends_when_it_is_asked_to(begin, objects, ray: FakeRay) -> None:
    operator = begin("import moe_operator.process.watchdog as d; d.END_SECONDS = 3" + HANGS)
    operator.wait_for("leader of")
    objects.apply("tiny", ray.spec())
    operator.wait_for("a pass hangs in a thread")
    operator.process.terminate()
    operator.ended(20)
    assert objects.kube.get("lease", "moe-operator", "moe-system")["spec"]["holderIdentity"] == ""


def test_two_operators_of_different_namespaces_both_lead_with_a_lease_each(
    start_operator, objects, second_namespace: str, ray: FakeRay
) -> None:
    namespace, account = service_account()
    for name in ("one", "two"):
        objects.kube.run(
            "create", "role", name, "-n", objects.namespace, "--verb=get,update,create", "--resource=leases"
        )
        user = f"--serviceaccount={namespace}:{account}"
        objects.kube.run("create", "rolebinding", name, "-n", objects.namespace, f"--role={name}", user)
    leases = f"--lease-namespace={objects.namespace}"
    start_operator(f"--namespace={objects.namespace}", leases, "--lease-name=one")
    start_operator(f"--namespace={second_namespace}", leases, "--lease-name=two")
    other = type(objects)(objects.kube, second_namespace)
    objects.apply("tiny", ray.spec())
    other.apply("tiny", ray.spec(serving={"routePrefix": f"/{second_namespace}"}))
    try:
        objects.wait_ready("tiny")
        other.wait_ready("tiny")
    finally:
        other.let_go()


@pytest.fixture
def own_plane(tmp_path: Path) -> Iterator[ControlPlane]:
    """One whose CRD may be deleted."""
    with ControlPlane.start(tmp_path / "plane") as plane:
        install(plane.kubectl)
        yield plane


@pytest.mark.long
def test_a_kind_that_is_deleted_and_installed_again_is_worked_within_a_minute(
    own_plane: ControlPlane, tmp_path: Path, ray: FakeRay
) -> None:
    kube = own_plane.kubectl
    kube.run("create", "namespace", "team")
    manifest = {
        "apiVersion": "moe-operator.io/v1alpha1",
        "kind": "MoEDeployment",
        "metadata": {"name": "tiny", "namespace": "team"},
        "spec": ray.spec(),
    }

    def wait_told(seconds: float) -> None:
        nonlocal operator
        deadline = time.monotonic() + seconds
        while not _worked(kube):
            if operator.process.exit_code is not None:
                # As its Deployment does.
                assert operator.process.exit_code == 1
                said = operator.process.log.read_text()
                assert "Traceback" not in said
                # The stream of one of the kinds may hang where that of the other one is ended.
                why = ("is not installed any more: kubectl apply -f crds/", "gave no sign of life for")
                assert any(each in said for each in why), said[-4000:]
                operator.stop()
                operator = OperatorProcess.start(kube, tmp_path)
            said = operator.process.log.read_text()[-4000:]
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for a look at the object: {said}"
            time.sleep(0.5)

    operator = OperatorProcess.start(kube, tmp_path)
    try:
        kube.apply(manifest)
        wait_told(60)
        # First the object, which the operator lets go while it can still watch all kinds: one that ended at the first
        # kind that went would leave its finalizer behind, and the other kind could not go.
        kube.run("delete", "moe", "tiny", "-n", "team", f"--timeout={RELEASE_SECONDS}s", timeout=RELEASE_SECONDS + 10)
        for crd in sorted(CRDS.glob("*.yaml")):
            kube.run("delete", "-f", str(crd), f"--timeout={RELEASE_SECONDS}s", timeout=RELEASE_SECONDS + 10)
        install_crds(kube, CRDS)
        kube.apply(manifest)
        wait_told(60 + 30)
    finally:
        operator.stop()


def _worked(kube: Kubectl) -> bool:
    """Whether an operator has looked at the object since it was made."""
    moe = kube.get("moe", "tiny", "team") or {}
    return any(
        condition["type"] == "Ready" and condition.get("observedGeneration") == moe["metadata"]["generation"]
        for condition in moe.get("status", {}).get("conditions", [])
    )
