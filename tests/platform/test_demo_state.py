"""One demo per clone, and `make demo-stop` ends that one only."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from moe_dev.demo_state import DemoRunsError, DemoState, stop
from moe_dev.paths import CLONE

HOLDER = """
import signal, sys
from pathlib import Path
from moe_dev.demo_state import DemoState
with DemoState(Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_demo_is_refused_with_the_cure(tmp_path: Path) -> None:
    directory = tmp_path / ".demo"
    with DemoState(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        with (
            pytest.raises(DemoRunsError, match="runs already: use it, or end it with `make demo-stop`"),
            DemoState(directory),
        ):
            pass
    with DemoState(directory):
        pass


def test_logs_stay_until_the_next_demo_keys_do_not(tmp_path: Path) -> None:
    with DemoState(tmp_path):
        (tmp_path / "operator.log").write_text("old")
        (tmp_path / "operator.kubeconfig").write_text("token")
        (tmp_path / "controlplane/etcd").mkdir(parents=True)
        (tmp_path / "controlplane/ca.key").write_text("key")
        (tmp_path / "controlplane/etcd.log").write_text("old")
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"lock", "operator.log", "controlplane/etcd.log"}  # to be read after a failure
    assert not (tmp_path / "controlplane/etcd").exists()
    with DemoState(tmp_path):
        assert [entry.name for entry in tmp_path.iterdir()] == ["lock"]


def test_nothing_runs_nothing_is_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # The number of a process that is long gone may be a stranger's by now.
    (tmp_path / "lock").write_text(str(os.getpid()))
    assert stop(tmp_path) == 0
    assert stop(tmp_path / "never") == 0
    assert capsys.readouterr().out.splitlines() == ["no demo of this clone runs"] * 2


def test_keys_that_a_killed_demo_left_go_when_it_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "controlplane").mkdir()
    for name in ("operator.kubeconfig", "controlplane/ca.key", "ray.log"):
        (tmp_path / name).write_text("left")
    assert stop(tmp_path) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["lock", "ray.log"]


def test_stop_ends_the_holder_and_waits(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(CLONE / "hack")}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert stop(tmp_path) == 0
        assert holder.wait(60) == -signal.SIGTERM
