"""A Kubernetes cluster with real nodes, for tests and for `make cluster`.

`with Cluster.start(nodes=2) as cluster:` brings one up, of which nothing is left when the process that asked for it is
gone. One at a time on a machine, since it has addresses there. It needs root.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from moe_dev import binaries
from moe_dev.kube import Kubectl
from moe_dev.node import network, packages, trial
from moe_dev.node.hub import READY
from moe_dev.paths import cache_root
from moe_dev.processes import Guarded

START_SECONDS = 600.0
# Namespaces end at once; control groups take a second, and files a minute on a busy disk that is told what it frees.
STOP_SECONDS = 120.0
IMPORT_SECONDS = 300.0


class ClusterError(Exception):
    """The cluster cannot be started here; the message says what to do."""


@dataclass(slots=True)
class Cluster:
    """A running one; `kubeconfig` is the administrator's."""

    directory: Path
    kubectl: Kubectl
    nodes: tuple[str, ...]
    _host: Guarded

    @classmethod
    def start(cls, nodes: int = 1) -> Self:
        """Wait until all works; ClusterError where this machine will not do, ProcessError where something failed."""
        check(nodes)
        directory = new_directory()
        host = Guarded.start("the cluster", command(directory, nodes), log_file(), grace=STOP_SECONDS)
        try:
            host.wait_until("the cluster", lambda: missing(directory), START_SECONDS)
        except BaseException:
            host.stop()
            raise
        names = tuple(network.NodeAddress(number).name for number in range(nodes))
        return cls(directory, Kubectl(binaries.binary(binaries.KUBECTL), kubeconfig(directory)), names, host)

    def load(self, archive: Path) -> None:
        """Give every node the images of a tar file, as `buildah push … oci-archive:` or `docker-archive:` write it."""
        for node in self.nodes:
            socket = self.directory / node / "containerd.sock"
            ctr = [str(binaries.binary("ctr")), "--address", str(socket), "-n", "k8s.io"]
            imported = [*ctr, "images", "import", str(archive)]
            subprocess.run(imported, check=True, capture_output=True, timeout=IMPORT_SECONDS)

    def lose(self, node: str) -> None:
        """As a machine that loses its power: nothing comes from it any more, and nothing on it runs. It does not come
        back."""
        hub = _process(["-m", "moe_dev.node.hub", str(self.directory)])
        subprocess.run(["nsenter", f"--target={hub}", "--net", "ip", "link", "set", node, "down"], check=True)
        number = str(self.nodes.index(node))
        os.kill(_process(["-m", "moe_dev.node.machine", str(self.directory), number]), signal.SIGKILL)

    def stop(self) -> None:
        """End it and wait until nothing is left; does nothing the second time."""
        self._host.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _process(arguments: list[str]) -> int:
    """The process that runs Python with these, in whichever namespace."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = (entry / "cmdline").read_text(errors="replace").split("\0") if entry.name.isdigit() else []
            if words[:1] == [sys.executable] and words[1 : 1 + len(arguments)] == arguments:
                return int(entry.name)
    raise ClusterError(f"nothing runs {' '.join(arguments)}")


def check(nodes: int) -> None:
    """ClusterError where this machine will not do."""
    if not 1 <= nodes <= network.MOST_NODES:
        raise ClusterError(f"NODES={nodes}: a cluster has 1 to {network.MOST_NODES} nodes")
    if os.geteuid() != 0:
        raise ClusterError(
            "nodes need root: they mount, and make namespaces and links; run it as root, or set KUBECONFIG to another"
            " cluster"
        )
    if lacking := packages.lacking():
        raise ClusterError(f"packages are missing: install them, e.g. apt-get install {' '.join(lacking)}")
    if refused := trial.refused():
        raise ClusterError(f"this machine will not do: {refused}")


def command(directory: Path, nodes: int) -> list[str]:
    return [sys.executable, "-m", "moe_dev.node.host", str(directory), str(nodes)]


def new_directory() -> Path:
    """A private one with a short path on a disk: layers of images lie in it, which memory is too small for."""
    path = Path("/var/tmp") / f"moe-node-{secrets.token_hex(4)}"
    path.mkdir(mode=0o700)
    return path


def log_file() -> Path:
    """Of the last cluster that was started on this machine."""
    path = cache_root() / "cluster.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def kubeconfig(directory: Path) -> Path:
    return directory / "administrator.kubeconfig"


def missing(directory: Path) -> str | None:
    """What is not there yet, or None."""
    return None if (directory / READY).exists() else f"see {directory}/*.log"
