"""Control groups of the nodes, version 1: in each hierarchy one folder for each node, below that of this process.

Where they are is known before a node starts, so that what it leaves in them is found when it is gone.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# A process that got SIGKILL leaves its group a moment later.
EMPTY_SECONDS = 10.0
# Of one processor.
SHARES = 1024


class CgroupError(Exception):
    """This machine's control groups do not serve; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Hierarchy:
    # As `mount -o` takes them, such as "cpu,cpuacct" or "name=systemd".
    controllers: str
    # Of this process.
    own: Path

    def of_node(self, cluster: str, number: int) -> Path:
        return self.own / cluster / f"node-{number}"


def hierarchies() -> list[Hierarchy]:
    """Those that are mounted; CgroupError where there are none."""
    mounted = dict(_mounts(Path("/proc/self/mountinfo").read_text()))
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if frozenset(controllers.split(",")) in mounted:
            root, mountpoint = mounted[frozenset(controllers.split(","))]
            found.append(Hierarchy(controllers, mountpoint / os.path.relpath(path, root)))
    if not any("memory" in one.controllers.split(",") for one in found):
        raise CgroupError(
            "this machine has control groups of version 2 alone (or /sys/fs/cgroup is not mounted), and the nodes need"
            " version 1: take another cluster, such as kind, and set KUBECONFIG"
        )
    return found


def make(cluster: str, nodes: int) -> None:
    for hierarchy in hierarchies():
        controllers = hierarchy.controllers.split(",")
        for number in range(nodes):
            folder = hierarchy.of_node(cluster, number)
            folder.mkdir(parents=True, exist_ok=True)
            if "cpuset" in controllers:
                # A new one has no processors, and takes no process.
                for each in (folder.parent, folder):
                    for name in ("cpuset.cpus", "cpuset.mems"):
                        (each / name).write_text((each.parent / name).read_text())
            if "cpu" in controllers:
                # As a kubelet weighs the pods of a machine. A new one weighs no more than any single process beside it.
                for each, machines in ((folder.parent, nodes), (folder, 1)):
                    (each / "cpu.shares").write_text(str(machines * len(os.sched_getaffinity(0)) * SHARES))


def members(cluster: str, number: int) -> list[Path]:
    """The files to which a process writes its number to be of this node."""
    return [hierarchy.of_node(cluster, number) / "cgroup.procs" for hierarchy in hierarchies()]


def remove(cluster: str) -> None:
    """Remove what `make` made, and what nodes made below; waits until their processes are gone."""
    deadline = time.monotonic() + EMPTY_SECONDS
    for hierarchy in hierarchies():
        while (left := list(_below(hierarchy.own / cluster))) and time.monotonic() < deadline:
            for folder in left:
                try:
                    folder.rmdir()
                except OSError:
                    time.sleep(0.02)
        if left:
            raise CgroupError(f"{left[-1]} still has processes after {EMPTY_SECONDS:.0f} s")


def _below(folder: Path) -> Iterable[Path]:
    """The folder and all below it, the deepest first."""
    for path, _, _ in os.walk(folder, topdown=False):
        yield Path(path)


def _mounts(mountinfo: str) -> Iterable[tuple[frozenset[str], tuple[str, Path]]]:
    """(controllers, (root, mount point)) of each mounted hierarchy; options that name no controller do no harm."""
    options = {"rw", "ro", "xattr", "clone_children", "noprefix"}
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, super_options = after.split(" ", 2)
        if kind == "cgroup":
            fields = before.split(" ")
            named = {one for one in super_options.split(",") if one not in options and "release_agent" not in one}
            yield frozenset(named), (fields[3], Path(fields[4]))
