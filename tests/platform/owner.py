"""An owner to be killed: starts what its argument names, prints the pids below it when all is up, and waits.

Run by the tests that prove that nothing outlives its owner.
"""

import sys
import tempfile
import time
from pathlib import Path

import psutil

from moe_dev.controlplane import ControlPlane
from moe_dev.processes import Guarded
from moe_dev.raylocal import LocalRay

# A child that leaves its session and ignores every polite request, and a grandchild that nobody waits for.
STUBBORN = """
import os, signal, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
print("up", flush=True)
time.sleep(600)
"""


def main(what: str) -> None:
    directory = Path(tempfile.mkdtemp())
    if what == "stubborn":
        log = directory / "log"
        process = Guarded.start("stubborn", [sys.executable, "-c", STUBBORN], log, grace=0.2)
        process.wait_until("two processes", lambda: None if log.read_text().count("up") == 2 else "too few", 20)
    elif what == "controlplane":
        ControlPlane.start(directory)
    else:
        LocalRay.start(cpus=1)
    print(*(child.pid for child in psutil.Process().children(recursive=True)), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
