"""How a demo ends: its exit code says whether the job was done, and nothing it runs on ends unnoticed."""

import functools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from moe_dev import demo
from moe_dev.demo import ENDING_SIGNALS, Demo, DemoError
from moe_dev.demo_cluster import Cluster
from moe_dev.demo_state import DemoState
from moe_dev.kube import Kubectl, KubectlError
from moe_dev.processes import Guarded


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[Guarded]:
    process = Guarded.start("sleeper", ["sh", "-c", "echo up; exec sleep 600"], tmp_path / "sleeper.log")
    process.wait_until("the shell", lambda: None if process.log_tail() else "silent", 20)
    yield process
    process.stop()


@pytest.fixture
def parts(sleeper: Guarded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Guarded]:
    """The demo without Kubernetes and Ray: it runs on one process, which is this."""
    nowhere = Kubectl(Path("/no/kubectl"), Path("/no/kubeconfig"))
    running = Demo(Cluster(nowhere, "default", own=False), (sleeper,), "token", {"metadata": {"name": "tiny"}})

    def start(_directory: Path, _stack: ExitStack) -> Demo:
        return running

    monkeypatch.setattr(demo, "DemoState", functools.partial(DemoState, tmp_path / ".demo"))
    monkeypatch.setattr(demo, "_start", start)
    monkeypatch.setattr(demo, "_job", lambda _demo, _parts: None)
    monkeypatch.setattr(demo, "_show_how_to_go_on", lambda _demo: None)
    monkeypatch.delenv("DEMO_EXIT", raising=False)
    before = {number: signal.getsignal(number) for number in ENDING_SIGNALS}
    yield sleeper
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: signal.Signals) -> Callable[..., None]:
    return lambda *_: os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", ENDING_SIGNALS)
def test_a_signal_is_a_success_only_after_the_job(
    parts: Guarded, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_show_how_to_go_on", send(number))
    assert demo.main() == 0
    monkeypatch.setattr(demo, "_job", send(number))
    assert demo.main() == 128 + number
    monkeypatch.setenv("DEMO_EXIT", "1")
    assert demo.main() == 128 + number


def test_the_job_alone_is_a_success_where_that_was_asked_for(
    parts: Guarded, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DEMO_EXIT", "1")
    assert demo.main() == 0
    assert capsys.readouterr().out.endswith("] stopped; its logs stay in .demo\n")


def test_what_ends_by_itself_ends_the_demo(parts: Guarded, capsys: pytest.CaptureFixture[str]) -> None:
    parts.kill()
    assert demo.main() == 1
    assert f"demo failed: sleeper ended with 137: see {parts.log}\n" in capsys.readouterr().err


def test_waiting_for_ready_notices_it_too(parts: Guarded) -> None:
    running = Demo(Cluster(Kubectl(Path("/no"), Path("/no")), "default", own=False), (parts,), "token", {})
    running.check()
    parts.kill()
    with pytest.raises(DemoError, match="sleeper ended with 137"):
        demo._wait_ready(running)


def test_what_somebody_must_mend_ends_the_wait_for_ready(sleeper: Guarded) -> None:
    """Not every reason: what is tried again may pass."""

    def told(stalled: str) -> dict[str, object]:
        problem = {"reason": "SecretNotBound", "message": "bind it"}
        conditions = [{"type": "Ready", "status": "False"}, {"type": "Stalled", "status": stalled}]
        return {"status": {"conditions": [one | problem for one in conditions]}}

    running, kubectl = on(sleeper, lambda: told("False"), lambda: told("True"))
    with pytest.raises(DemoError, match="tiny will not be Ready: SecretNotBound: bind it"):
        demo._wait_ready(running)
    assert len(kubectl.answers) == 1


class Answers:
    """In place of kubectl, with the answers of an API server."""

    def __init__(self, *answers: Callable[[], dict[str, object] | None]) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, ...]] = []

    def run(self, *arguments: str) -> str:
        self.calls.append(arguments)
        return ""

    def get(self, *_arguments: str) -> dict[str, object] | None:
        return (self.answers.pop(0) if len(self.answers) > 1 else self.answers[0])()


def on(process: Guarded, *answers: Callable[[], dict[str, object] | None], own: bool = True) -> tuple[Demo, Answers]:
    """A demo that runs on `process` and on an API server that answers so."""
    kubectl = Answers(*answers)
    cluster = Cluster(kubectl, "default", own=own)  # type: ignore[arg-type]  # all that is asked of kubectl here
    return Demo(cluster, (process,), "token", {"metadata": {"name": "tiny"}}), kubectl


def test_the_end_waits_until_the_deployment_is_gone(sleeper: Guarded) -> None:
    running, kubectl = on(sleeper, dict, dict, lambda: None)
    demo._remove(running)
    assert kubectl.calls == [("delete", "moe", "tiny", "--namespace", "default", "--ignore-not-found", "--wait=false")]


@pytest.mark.parametrize("own", [True, False])
def test_the_end_waits_for_nobody_who_died_in_it(sleeper: Guarded, own: bool) -> None:
    def die() -> dict[str, object]:
        sleeper.kill()
        return {}

    running, kubectl = on(sleeper, die, own=own)
    demo._remove(running)
    assert [call[0] for call in kubectl.calls] == ["delete", *(["patch"] if own else [])]


def test_the_end_waits_not_for_ever(sleeper: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "DELETE_SECONDS", 0.3)
    running, _ = on(sleeper, dict)
    with pytest.raises(DemoError, match="tiny is still there 0 s after its deletion"):
        demo._remove(running)


def test_an_api_server_that_died_is_named(sleeper: Guarded) -> None:
    def refuse() -> dict[str, object]:
        sleeper.kill()
        raise KubectlError("kubectl get moe tiny: connection refused")

    running, _ = on(sleeper, refuse)
    with pytest.raises(DemoError, match="sleeper ended with 137"):
        running.live()


@pytest.mark.e2e
def test_a_deployment_goes_from_ones_own_cluster_though_its_operator_died(
    installed: Kubectl, namespace: str, sleeper: Guarded
) -> None:
    deployment = yaml.safe_load(demo.EXAMPLE.read_text())
    deployment["metadata"]["finalizers"] = ["moe-operator.io/cleanup"]
    installed.apply(deployment, namespace=namespace)
    sleeper.kill()
    demo._remove(Demo(Cluster(installed, namespace, own=True), (sleeper,), "token", deployment))
    assert installed.get("moe", "tiny", namespace) is None


def test_what_was_applied_with_another_address_is_kept(tmp_path: Path) -> None:
    """The example itself would then name whatever listens on the usual port."""
    example = yaml.safe_load(demo.EXAMPLE.read_text())
    assert demo._manifest(example, tmp_path) == demo.EXAMPLE
    example["spec"]["runtime"]["rayCluster"]["dashboardURL"] = "http://127.0.0.1:1234"
    changed = demo._manifest(example, tmp_path)
    assert changed == tmp_path / "01-tiny.yaml"
    assert yaml.safe_load(changed.read_text()) == example
