"""What every test may ask for: a real API server, a real Ray, the operator as its own ServiceAccount.

Each is started once for the session, when the first test asks, and ends with it, whatever becomes of pytest.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from kube_rest import fresh_namespace

from moe_dev.controlplane import ControlPlane
from moe_dev.kube import Kubectl
from moe_dev.operator_process import OperatorProcess, install
from moe_dev.raylocal import LocalRay

# An example may have to wait for a busy machine.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# Their ends are shown beside the traceback of a test that failed.
_logs: dict[str, Path] = {}
LOG_TAIL_CHARACTERS = 4000


@pytest.fixture(scope="session")
def controlplane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with ControlPlane.start(tmp_path_factory.mktemp("controlplane")) as plane:
        yield plane


@pytest.fixture(scope="session")
def kube(controlplane: ControlPlane) -> Kubectl:
    """kubectl as administrator of the session's control plane."""
    return controlplane.kubectl


@pytest.fixture(scope="session")
def installed(kube: Kubectl) -> Kubectl:
    """The same, with the CRDs and the operator's ServiceAccount in place."""
    install(kube)
    return kube


@pytest.fixture
def namespace(kube: Kubectl) -> Iterator[str]:
    """A fresh namespace; its deletion is asked for at the end and not waited for."""
    with fresh_namespace(kube.kubeconfig) as name:
        yield name


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[LocalRay]:
    """Its GPUs are only declared: Ray hands them out, and nobody computes on them."""
    with LocalRay.start(gpus=8) as ray:
        yield ray


@pytest.fixture(scope="module")
def operator(installed: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One operator for all namespaces and all tests of a module: not for tests that end it or start another.

    Not of the session, since it holds the Lease: operators of other modules would wait for ever.
    """
    process = OperatorProcess.start(installed, tmp_path_factory.mktemp("operator"))
    _logs["operator"] = process.process.log
    yield process
    process.stop()
    _logs.pop("operator", None)


@pytest.fixture
def start_operator(installed: Kubectl, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """Starts operators of the test's own; its arguments go to the command line."""
    started: list[OperatorProcess] = []

    def start(*arguments: str) -> OperatorProcess:
        process = OperatorProcess.start(installed, tmp_path, *arguments)
        _logs["operator of this test"] = process.process.log
        started.append(process)
        return process

    yield start
    for process in started:
        process.stop()
    _logs.pop("operator of this test", None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed and item.get_closest_marker("e2e"):
        for name, log in _logs.items():
            report.sections.append((f"end of the log of {name}", log.read_text()[-LOG_TAIL_CHARACTERS:]))
    return report
