"""Keeps two processes from making the same thing at once. Standard library only."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from moe_dev.commands import check_stopped
from moe_dev.progress import step

POLL_SECONDS = 0.2


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which is made; says so when somebody else is making `what`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        if not _taken(lock):
            with step(f"waiting for somebody else who makes {what}"):
                while not _taken(lock):  # not in one call, which nothing but a signal would end
                    time.sleep(POLL_SECONDS)
                    check_stopped()
        yield


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
