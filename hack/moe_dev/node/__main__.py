"""`make cluster` and `make cluster-down`: `python -m moe_dev.node up NODES` and `python -m moe_dev.node down`.

`python -m moe_dev.node packages` prints which of Debian's packages this machine lacks for it.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from moe_dev.binaries import BinariesError
from moe_dev.locks import take
from moe_dev.node import cluster, packages
from moe_dev.node.cgroups import CgroupError
from moe_dev.node.cluster import ClusterError
from moe_dev.node.host import clear_left, lock_file
from moe_dev.progress import elapsed, step, waiting


def up(nodes: int) -> int:
    """Start one that stays when this process ends; prints how to reach it."""
    cluster.check(nodes)
    directory = cluster.new_directory()
    log = cluster.log_file()
    with open(log, "ab") as output:
        host = subprocess.Popen(
            cluster.command(directory, nodes),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        with step(f"starting a cluster of {nodes} node{'s' if nodes > 1 else ''}"), waiting("nodes and add-ons"):
            while cluster.missing(directory):
                if elapsed() > cluster.START_SECONDS or host.poll() is not None:
                    raise ClusterError(f"the cluster did not come up; the end of {log}:\n{log.read_text()[-3000:]}")
                time.sleep(0.1)
    except BaseException:
        host.terminate()
        host.wait(cluster.STOP_SECONDS)
        raise
    print(f"export KUBECONFIG={cluster.kubeconfig(directory)}")
    return 0


def down() -> int:
    """End the cluster of this machine, whoever started it, and wait until nothing is left of it."""
    with lock_file() as lock:
        if take(lock):
            left = clear_left(lock)
            print(f"cleared {left}, which a killed one left" if left else "no cluster of nodes runs on this machine")
            return 0
        pid, _, directory = lock.read().partition(" ")
        with step(f"ending the cluster in {directory} (process {pid})"):
            if not _is_host(pid):
                raise ClusterError("it starts or ends at this moment: try again")
            os.kill(int(pid), signal.SIGTERM)
            deadline = time.monotonic() + cluster.STOP_SECONDS
            while not take(lock):
                if time.monotonic() > deadline:
                    raise ClusterError(f"process {pid} still runs after {cluster.STOP_SECONDS:.0f} s")
                time.sleep(0.1)
    return 0


def _is_host(pid: str) -> bool:
    """Whether it is what its owner wrote, not of one before it, whose number may be another's by now."""
    try:
        return b"moe_dev.node.host" in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except (ValueError, OSError):
        return False


def main() -> int:
    try:
        if sys.argv[1] == "packages":
            print(*packages.lacking())
            return 0
        return up(int(sys.argv[2])) if sys.argv[1] == "up" else down()
    except (BinariesError, CgroupError, ClusterError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
