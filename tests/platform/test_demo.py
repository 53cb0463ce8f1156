"""`make demo` as a stranger runs it: in a fresh clone, with what the caches hold and nothing from the network."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from moe_dev.controlplane import ControlPlane
from moe_dev.demo import STAYS_UP
from moe_dev.paths import CLONE
from moe_dev.raylocal import LocalRay

pytestmark = [pytest.mark.e2e, pytest.mark.ray, pytest.mark.timeout(1200)]

JOB_SECONDS = 800.0
# From the command to the first token, on 2 cores that have nothing else to do: it is 26 to 44 s, by their speed.
FIRST_TOKEN_SECONDS = 60.0
STOP_SECONDS = 120.0
PASTE_SECONDS = 60.0


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    # With characters that a shell would take apart: nothing on the way may.
    path = tmp_path_factory.mktemp("fresh") / "Ann's clone"
    subprocess.run(["git", "clone", "--quiet", str(CLONE), str(path)], check=True)
    yield path
    shutil.rmtree(path)


def make(clone: Path, *arguments: str) -> list[str]:
    """The command line, with the Python that this test's environment was made from."""
    return ["make", "-C", str(clone), f"PYTHON={os.path.realpath(sys.executable)}", *arguments]


def environment() -> dict[str, str]:
    """A shell's: nothing of the make and the Python around this test, and no way to download."""
    ours = ("MAKE", "MFLAGS", "PYTHON", "VIRTUAL_ENV", "KUBECONFIG", "RAY_", "PYTEST", "TESTS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return {**inherited, "UV_OFFLINE": "1", "PIP_NO_INDEX": "1", "GOPROXY": "off"}


def processes_of(clone: Path) -> list[str]:
    """Whatever runs with the clone's Python or in its folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd"]):
        about = [process.info["cwd"] or "", *(process.info["cmdline"] or [])]
        if any(str(clone) in part for part in about):
            found.append(f"{process.pid} {' '.join(process.info['cmdline'] or [])[:120]}")
    return found


def slowdown() -> float:
    """How many processes want each core, if more than one does: others may work on this machine, the tests do."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


@contextmanager
def running_demo(
    clone: Path, log: Path, *variables: str, until: str = STAYS_UP, loads: list[float] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`make demo`, a process group as in a terminal, once it said `until`; ended with `make demo-stop` if need be.

    ``loads`` gets the slowdowns meanwhile.
    """
    with open(log, "wb") as output:
        demo = subprocess.Popen(
            make(clone, "demo", *variables), env=environment(), stdout=output, stderr=output, process_group=0
        )
    try:
        deadline = time.monotonic() + JOB_SECONDS
        while until not in log.read_text():
            assert demo.poll() is None, f"make demo ended with {demo.returncode}:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"waited {JOB_SECONDS:.0f} s for {until!r}:\n{log.read_text()}"
            if loads is not None:
                loads.append(slowdown())
            time.sleep(0.5)
        yield demo
    finally:
        subprocess.run(make(clone, "demo-stop"), env=environment(), timeout=STOP_SECONDS, check=True)
        demo.wait(STOP_SECONDS)


# A placement is planned at low priority, so beside other lanes it comes late or not at all.
@pytest.mark.alone
@pytest.mark.long
def test_a_fresh_clone_does_the_job_shows_how_to_go_on_and_ends_with_ctrl_c(clone: Path, tmp_path: Path) -> None:
    log, loads = tmp_path / "demo.log", [slowdown()]
    with running_demo(clone, log, loads=loads) as demo:
        said = log.read_text()
        for expected in ("$ kubectl apply -f examples/01-tiny.yaml", "Ready: ", "$ kubectl get moe", "first token "):
            assert expected in said
        assert re.search(r"^tiny +\w+ +4 +4 .*True +Available", said, re.MULTILINE)
        assert re.search(r"layer +shard 0 +shard 1 +shard 2 +shard 3", said)
        routed = re.search(r"(\d+) rows through MoE layers", said)
        assert routed is not None
        assert int(routed[1]) > 0
        first_token = re.search(r"first token .*, ([0-9.]+) s after the start of the demo", said)
        assert first_token is not None
        assert float(first_token[1]) < FIRST_TOKEN_SECONDS * max(loads)
        assert re.search(r"^traffic +placement +balance +fan-out +tokens/s +price +verified", said, re.MULTILINE)
        rows = re.findall(r"^(?:Python|German) +r\d+ .*$", said, re.MULTILINE)
        assert [row.split()[0] for row in rows] == ["Python", "Python", "German", "German"]
        assert all(re.search(r"\d+ moves, [0-9.]+ MB, .* (True|Unknown|False): \w+$", row) for row in rows[1::2])
        assert "the stream went on to its end, token for token as before" in said
        assert re.search(r"shard \d is back as process \d+ with \d+ expert copies", said)
        refuse_a_second(clone)
        lines = [line.strip() for line in said.partition(STAYS_UP)[2].splitlines() if line[:2] == "  "]
        assert '"type":"Ready"' in paste(lines, "get moe tiny").replace(" ", "")
        assert paste(lines, "import openai").strip()
        if shutil.which("curl"):
            assert paste(lines, "curl ").rstrip().endswith("data: [DONE]")
        assert demo.poll() is None
        os.killpg(demo.pid, signal.SIGINT)
        demo.wait(STOP_SECONDS)
    print(log.read_text())
    assert "warn" not in log.read_text().lower()
    assert "Traceback" not in log.read_text()
    assert log.read_text().splitlines()[-1].endswith("] stopped; its logs stay in .demo")
    assert not processes_of(clone)
    changed = subprocess.run(["git", "-C", str(clone), "status", "--porcelain"], capture_output=True, check=True)
    assert not changed.stdout


@pytest.mark.long
def test_one_on_a_cluster_of_ones_own_that_is_stopped_too_early_has_failed_and_leaves_nothing(
    clone: Path, ray_cluster: LocalRay, tmp_path: Path
) -> None:
    """Stopped once the operator has done with its rights in one namespace what it will ever do."""
    log = tmp_path / "demo.log"
    with ControlPlane.start(tmp_path / "own") as own:
        variables = (f"KUBECONFIG={own.kubeconfig}", "DEMO_EXIT=1")
        with running_demo(clone, log, *variables, until="DeployingShards: ") as demo:
            deployment = own.kubectl.get("moe", "tiny", "moe-demo")
            assert deployment is not None
            assert own.kubectl.get("lease", "moe-operator", "moe-demo") is not None
            assert own.kubectl.get("namespace", "moe-system") is None
            stopped = subprocess.run(make(clone, "demo-stop"), env=environment(), timeout=STOP_SECONDS, check=False)
            assert stopped.returncode == 0
            assert demo.wait(STOP_SECONDS) != 0
        assert f"Error {128 + signal.SIGTERM}" in log.read_text()
        assert "Traceback" not in log.read_text()
        assert own.kubectl.get("namespace", "moe-demo") is None
        assert not processes_of(clone)
    request = urllib.request.Request(
        f"{ray_cluster.dashboard_url}/api/serve/applications/",
        headers={"Authorization": f"Bearer {ray_cluster.token}"},
    )
    with urllib.request.urlopen(request, timeout=PASTE_SECONDS) as answer:
        assert answer.status == 200


def refuse_a_second(clone: Path) -> None:
    second = subprocess.run(
        make(clone, "demo"), env=environment(), capture_output=True, text=True, timeout=STOP_SECONDS, check=False
    )
    assert second.returncode != 0
    assert "a demo of this clone runs already" in second.stderr.splitlines()[0]


def paste(lines: list[str], what: str) -> str:
    """What the shown line with `what` in it prints, in a shell that was given the lines for kubectl."""
    exports = [line for line in lines if line.startswith("export ")]
    (chosen,) = (line for line in lines if what in line and "scale" not in line)
    script = "\n".join([*exports, chosen.replace("-o yaml", "-o json")])
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=PASTE_SECONDS, check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
