"""`make e2e-sample`: a MoEDeployment on one node of our own, as far as CI has time for.

`python -m moe_dev.node.sample BINARY…` builds what the node runs, makes its images and runs the tests. Where the
machine cannot have a node, the last line says that they did not run, and why: nothing has failed, and nothing passed.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from moe_dev.debian import ImageError
from moe_dev.node import cluster, images
from moe_dev.paths import CLONE
from moe_dev.progress import say

TESTS = "tests/cluster/test_moe_deployment.py"
NODES = 1
GIGABYTE = 10**9
# What its pods and programs take while four shards run, and what they write; with something to spare.
MEMORY, DISK = 6 * GIGABYTE, 4 * GIGABYTE
# All of CI has an end, which a machine without a cache would come near.
BUILD_SECONDS = 15 * 60.0
END_SECONDS = 20.0


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    if why := unable():
        return _not_run(why)
    begun = time.monotonic()
    try:
        status = _build(arguments)
    except subprocess.TimeoutExpired:
        return _not_run(f"not all of a node was built within {BUILD_SECONDS / 60:.0f} min; the next run goes on there")
    if status != 0:
        return status
    say(f"builds of what a node runs: {time.monotonic() - begun:.0f} s")
    try:
        _timed("images of the node", images.archives)
    except ImageError as error:
        return _not_run(str(error))
    environment = {name: value for name, value in os.environ.items() if name != "KUBECONFIG"}
    command = [sys.executable, "-m", "pytest", "-s", "-m", "whole", TESTS]
    return subprocess.run(command, cwd=CLONE, env={**environment, "NODES": str(NODES)}, check=False).returncode


def unable() -> str | None:
    """Why this machine can run none of it; None where it can."""
    try:
        cluster.check(NODES)
    except cluster.ClusterError as error:
        return str(error)
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, value = line.split(":")
        if name == "MemAvailable" and (free := int(value.split()[0]) * 1024) < MEMORY:
            return f"it takes {MEMORY / GIGABYTE:.0f} GB of memory, and {free / GIGABYTE:.1f} GB are free"
    if (free := shutil.disk_usage("/var/tmp").free) < DISK:
        return f"it takes {DISK / GIGABYTE:.0f} GB on /var/tmp, and {free / GIGABYTE:.1f} GB are free"
    return None


def _build(names: Sequence[str]) -> int:
    """Its exit status; subprocess.TimeoutExpired, with nothing of it left, where it takes too long."""
    command = [sys.executable, "-m", "moe_dev.setup", "--binaries", *names]
    process = subprocess.Popen(command, cwd=CLONE, process_group=0)
    try:
        return process.wait(BUILD_SECONDS)
    except BaseException:
        # As a Ctrl-C: compilers end, and what is finished is kept.
        os.killpg(process.pid, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise


def _not_run(why: str) -> int:
    print(f"NOT RUN: the sample of the tests on nodes: {' '.join(why.split())}", flush=True)
    return 0


def _timed(what: str, task: Callable[[], object]) -> None:
    begun = time.monotonic()
    task()
    say(f"{what}: {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
