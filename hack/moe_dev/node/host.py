"""Owns a cluster of nodes: makes its namespaces, control groups and link, and removes what the kernel does not.

`python -m moe_dev.node.host DIRECTORY NODES` runs until SIGTERM, or until the cluster ends. Namespaces, with their
mounts, links and processes, end with one process, and that one ends with this one, however it ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from moe_dev.debian import ImageError
from moe_dev.locks import open_private, take
from moe_dev.node import cgroups, images, network
from moe_dev.node.hub import HOST_LINK
from moe_dev.node.tools import ip
from moe_dev.paths import cache_root
from moe_dev.processes import Guarded
from moe_dev.progress import say

CHILD_SECONDS = 10.0


class HostError(Exception):
    """The cluster cannot be on this machine; the message says what to do."""


def lock_file() -> TextIO:
    path = cache_root() / "cluster.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_private(path)


@contextlib.contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Hold the lock that says which process has the cluster, and where; clear its folder in the end, and before that
    what one that was killed left."""
    with lock_file() as lock:
        if not take(lock):
            directory.rmdir()
            raise HostError(f"a cluster runs already: {lock.read()}; end it with `make cluster-down`")
        clear_left(lock)
        _record(lock, f"{os.getpid()} {directory}")
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what is left to do takes seconds
            clear_left(lock)


def clear_left(lock: TextIO) -> str:
    """Clear the folder that the lock file names, which is locked, and tell which; it stays named until it is clear."""
    lock.seek(0)
    _, _, directory = lock.read().partition(" ")
    if directory:
        _record(lock, f"{os.getpid()} {directory}")
        _remove_link()
        cgroups.remove(Path(directory).name)
        shutil.rmtree(directory, ignore_errors=True)
        _record(lock, "")
    return directory


def _remove_link() -> None:
    """The kernel takes its time to do so after the other end's namespace."""
    subprocess.run(["ip", "link", "delete", network.HOST_LINK], capture_output=True, check=False)


def _record(lock: TextIO, what: str) -> None:
    lock.seek(0)
    lock.truncate()
    lock.write(what)
    lock.flush()


def run(directory: Path, nodes: int) -> None:
    images.archives()  # the nodes reach no server of packages
    cgroups.make(directory.name, nodes)
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--propagation", "private"]
    unshare = ["unshare", *namespaces, "--fork", "--mount-proc", "--kill-child"]
    command = [*unshare, sys.executable, "-m", "moe_dev.node.hub", str(directory), str(nodes)]
    hub = Guarded.start("hub", command, directory / "hub.log", grace=3.0)
    try:
        _link(_child_of(_child_of(hub.pid)), nodes)
        while True:
            hub.check()
            time.sleep(0.5)
    finally:
        hub.stop()


def _child_of(pid: int) -> int:
    """The only child of a process, which may just have been started."""
    deadline = time.monotonic() + CHILD_SECONDS
    while time.monotonic() < deadline:
        if children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            return int(children[0])
        time.sleep(0.02)
    raise RuntimeError(f"process {pid} started nothing within {CHILD_SECONDS:.0f} s")


def _link(pid: int, nodes: int) -> None:
    """The host's link to the bridge; it goes with the namespace of the other end."""
    link = network.HOST_LINK
    ip(f"link add {link} type veth peer name {HOST_LINK} netns {pid}")
    ip(f"address add {network.HOST}/{network.LINKS.prefixlen} dev {link}")
    ip(f"link set {link} up")
    for destination, hop in network.host_routes(nodes):
        ip(f"route add {destination} via {hop}")


def main() -> int:
    directory, nodes = Path(sys.argv[1]), int(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        with only_one(directory):
            run(directory, nodes)
    except (HostError, ImageError, cgroups.CgroupError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
