"""Which demo of this clone runs: one at a time, and `make demo-stop` ends that one and nothing else.

The running demo holds a lock on a file that names its process, so that a stale number can never hit a stranger.
Standard library only: `python -m moe_dev.demo_state` is `make demo-stop`.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from moe_dev.locks import open_private, take
from moe_dev.paths import CLONE

DIRECTORY = CLONE / ".demo"
# It removes its applications from Ray, then ends Ray, the operator and the control plane.
STOP_SECONDS = 120.0
LOCK = "lock"
KEPT = (".log",)


class DemoRunsError(Exception):
    """A demo of this clone runs already."""


class DemoState:
    """The private directory of a running demo, held while the `with` block lasts.

    Only logs stay when it ends, until the next one begins: keys and addresses of what is gone are of no use.
    """

    def __init__(self, directory: Path = DIRECTORY) -> None:
        self.directory = directory
        self._lock: TextIO | None = None

    def __enter__(self) -> Self:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._lock = open_private(self.directory / LOCK)
        if not take(self._lock):
            self._lock.close()
            raise DemoRunsError("a demo of this clone runs already: use it, or end it with `make demo-stop`")
        # At once: until then the number in it is that of the demo before.
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        _clear(self.directory, keep=())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock is not None:
            _clear(self.directory, keep=KEPT)
            self._lock.close()


def stop(directory: Path = DIRECTORY) -> int:
    """End the demo whose state is in `directory` and wait for it; the exit code of `make demo-stop`."""
    if not directory.exists():
        print("no demo of this clone runs")
        return 0
    with open_private(directory / LOCK) as lock:
        if take(lock):
            _clear(directory, keep=KEPT)  # what one that was killed left
            print("no demo of this clone runs")
            return 0
        lock.seek(0)
        pid = int(lock.read())
        print(f"stopping the demo (process {pid})", flush=True)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while not take(lock):
            if time.monotonic() > deadline:
                print(f"process {pid} still runs after {STOP_SECONDS:.0f} s: see {directory}/*.log", file=sys.stderr)
                return 1
            time.sleep(0.1)
    print("stopped")
    return 0


def _clear(directory: Path, keep: tuple[str, ...]) -> None:
    """Remove all files but the lock and those that end with one of ``keep``, and the folders that this empties."""
    for folder, _, names in os.walk(directory, topdown=False):
        for name in names:
            if name != LOCK and not name.endswith(keep):
                (Path(folder) / name).unlink(missing_ok=True)
        if folder != str(directory) and not os.listdir(folder):
            os.rmdir(folder)


if __name__ == "__main__":
    sys.exit(stop())
