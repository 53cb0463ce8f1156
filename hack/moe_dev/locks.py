"""Files whose locks keep two processes from making, or being, the same thing at once. Standard library only."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from moe_dev.commands import check_stopped
from moe_dev.progress import step

POLL_SECONDS = 0.2


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which is made; says so when somebody else is making `what`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        if not take(lock):
            with step(f"waiting for somebody else who makes {what}"):
                while not take(lock):  # not in one call, which nothing but a signal would end
                    time.sleep(POLL_SECONDS)
                    check_stopped()
        yield


def open_private(path: Path) -> TextIO:
    """A lock file that also says who has it; it is made where it is not there, and only its owner may read it."""
    return open(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")


def take(lock: TextIO) -> bool:
    """Whether its lock is now held by this process: until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
