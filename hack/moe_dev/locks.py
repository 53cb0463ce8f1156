"""Keeps two processes from making the same thing at once. Standard library only."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moe_dev.progress import step


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`, which is made; says so when somebody else is making `what`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with step(f"waiting for somebody else who makes {what}"):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield
