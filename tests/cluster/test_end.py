"""Nothing of a cluster is left: when it is told to stop, and when the process that asked for it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from moe_dev.node import network
from moe_dev.node.cgroups import hierarchies
from moe_dev.node.cluster import Cluster

pytestmark = [pytest.mark.whole, pytest.mark.node]

END_SECONDS = 60.0
OWNER = """
import sys, time
from moe_dev.node.cluster import Cluster
cluster = Cluster.start(1)
print(cluster.directory, flush=True)
time.sleep(600)
"""


def leavings(directory: Path) -> list[str]:
    """All that a cluster in `directory` has on this machine."""
    groups = [str(one.own / directory.name) for one in hierarchies()]
    folders = [str(path) for path in (directory, Path("/sys/class/net") / network.HOST_LINK)]
    mounts = Path("/proc/self/mountinfo").read_text()
    return [
        *(path for path in (*groups, *folders) if Path(path).exists()),
        *(f"mount below {directory}" for _ in range(str(directory) in mounts)),
        *processes_with(str(directory)),
        *(f"route {line}" for line in routes() if network.HOST_LINK in line),
    ]


def processes_with(word: str) -> Iterator[str]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue  # it ended meanwhile
            if word in command:
                yield f"process {entry.name}: {command[:200]}"


def routes() -> list[str]:
    return subprocess.run(["ip", "route"], capture_output=True, text=True, check=True).stdout.splitlines()


def namespaces() -> int:
    """How many network namespaces processes of this machine are in."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                found.add(os.readlink(entry / "ns" / "net"))
            except OSError:
                continue
    return len(found)


def gone(what: Callable[[], list[str]]) -> list[str]:
    """What is left of it in the end."""
    deadline = time.monotonic() + END_SECONDS
    while (left := what()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return left


def test_stopping_leaves_nothing(no_cluster: None) -> None:
    before = namespaces()
    begun = time.monotonic()
    with Cluster.start(2) as cluster:
        started = time.monotonic()
        directory = cluster.directory
        assert len(leavings(directory)) > 10, "what is looked for is not what a cluster has"
        assert namespaces() > before
    print(f"cluster of 2: up in {started - begun:.1f} s, down in {time.monotonic() - started:.1f} s")
    assert leavings(directory) == []
    assert namespaces() == before


def test_an_owner_that_is_killed_leaves_nothing(no_cluster: None) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    directory = Path(owner.stdout.readline().strip())
    assert leavings(directory)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert gone(lambda: leavings(directory)) == []
