"""The set-up does several things at once, and none of them outlives the failure of another."""

import fcntl
import functools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moe_dev import commands
from moe_dev.commands import SetupError, together
from moe_dev.locks import exclusive

SECONDS = 20.0


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """A process sets up once; a test does several times."""
    commands._stopped.clear()
    yield
    commands._stopped.clear()


def shell(script: str) -> Callable[[], None]:
    return functools.partial(commands.run, ["sh", "-c", script], environment=os.environ)


def test_both_run_at_once(tmp_path: Path) -> None:
    one, other = (
        f"touch {tmp_path}/{mine}; until [ -e {tmp_path}/{yours} ]; do sleep 0.05; done"
        for mine, yours in (("a", "b"), ("b", "a"))
    )
    together(shell(one), shell(other))


@pytest.mark.timeout(SECONDS)
def test_the_first_failure_is_told_and_ends_what_runs_beside_it(tmp_path: Path) -> None:
    afterwards = tmp_path / "afterwards"

    def two_steps() -> None:
        shell("exec sleep 600")()
        afterwards.touch()

    with pytest.raises(SetupError, match=re.escape("failed with status 3:\nno such package\n")):
        together(two_steps, shell("echo no such package; exit 3"))
    assert not afterwards.exists()


@pytest.mark.timeout(SECONDS)
def test_a_wait_for_another_builder_ends_too(tmp_path: Path) -> None:
    def build() -> None:
        with exclusive(tmp_path / "lock", "it"):
            pytest.fail("somebody else holds it")

    with open(tmp_path / "lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(SetupError, match="status 4"):
            together(build, shell("sleep 0.5; exit 4"))


@pytest.mark.timeout(SECONDS)
def test_ctrl_c_ends_all(tmp_path: Path) -> None:
    script = f"""
from moe_dev import commands
wait = lambda: commands.run(["sh", "-c", "trap '' INT; echo $$ >>{tmp_path}/pids; exec sleep 600"], environment={{}})
commands.together(wait, wait)
"""
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True) as running:
        pids = tmp_path / "pids"
        deadline = time.monotonic() + SECONDS
        while not pids.exists() or len(pids.read_text().split()) < 2:
            assert time.monotonic() < deadline, f"waited {SECONDS} s for both to start"
            time.sleep(0.05)
        running.send_signal(2)
        _, said = running.communicate(timeout=SECONDS)
    assert "KeyboardInterrupt" in said
    for pid in pids.read_text().split():
        assert not Path(f"/proc/{pid}").exists()
