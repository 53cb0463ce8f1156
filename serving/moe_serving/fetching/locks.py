"""Locks that processes of a node share, by files. One goes with the process that has it, however that ends.

Whoever has a lock may stand still, as a process that was frozen, or before a file system that does not answer. Others
wait for as long as it gets on, and then say whom they waited for.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from moe_serving.checkpoint.errors import ModelError

TRY_SECONDS = 0.05
"""Between two tries of who waits. Whoever takes a lock several times in a row leaves others twice as long in between,
or they would never have it."""
TOLD_SECONDS = 1.0
"""Between two times that who waits is asked whether to go on."""
LOOK_SECONDS = 10.0
"""Between two looks at whether who has it gets on: of a large model it is a thousand files."""
STILL_SECONDS = 600.0
"""For which nothing must have moved: to compare a file of 100 GB with its checksum takes minutes."""

_HOLDER = re.compile(r"([0-9]{1,10}) ([!-~]{1,100}) ([0-9TZ:-]{1,30})")


@contextlib.contextmanager
def locked(
    file: Path, moved: Callable[[], object] = lambda: None, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """Alone among all who do this with ``file``; see ``take``."""
    with file.open("ab") as stream:
        take(stream, fcntl.LOCK_EX, moved, meanwhile)
        note_holder(stream)
        yield


def take(
    stream: IO[bytes],
    how: int,
    moved: Callable[[], object] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Wait for the lock of an open file.

    Args:
        how: ``fcntl.LOCK_EX`` or ``fcntl.LOCK_SH``.
        moved: what becomes another one as whoever has it gets on.
        meanwhile: called about once in ``TOLD_SECONDS``; what it raises ends the wait.

    Raises:
        ModelError: DownloadFailed, nothing has moved for ``STILL_SECONDS``.
    """
    if try_to_take(stream, how):
        return
    file = Path(stream.name)
    before, still = (moved(), _holder_of(file)), 0.0
    told = looked = time.monotonic()
    while not try_to_take(stream, how):
        now = time.monotonic()
        if now - told >= TOLD_SECONDS:
            told = now
            meanwhile()
        if now - looked >= LOOK_SECONDS:
            # Where this process stood still itself, little of that counts.
            still, looked = still + min(now - looked, 2 * LOOK_SECONDS), now
            if (seen := (moved(), _holder_of(file))) != before:
                before, still = seen, 0.0
            if still >= STILL_SECONDS:
                raise _stands_still(file)
        time.sleep(TRY_SECONDS)


def try_to_take(stream: IO[bytes], how: int) -> bool:
    """Whether it could be had at once."""
    try:
        fcntl.flock(stream, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def note_holder(stream: IO[bytes]) -> None:
    """Say in a file, opened to be appended to, that this process has its lock."""
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with contextlib.suppress(OSError):  # a disk that is full, of which this may be to make room
        os.ftruncate(stream.fileno(), 0)
        os.write(stream.fileno(), f"{os.getpid()} {socket.gethostname()} {since}".encode())


def _holder_of(file: Path) -> str:
    """In words; of a process of an earlier release nothing is known."""
    told = b""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        told = stream.read(200)
    found = _HOLDER.fullmatch(told.decode(errors="replace"))
    if found is None:
        return "another process, of which no more is known"
    return f"process {found[1]} of {found[2]}, since {found[3]}"


def _stands_still(file: Path) -> ModelError:
    return ModelError(
        "DownloadFailed",
        f"waited {STILL_SECONDS:.0f} s for the lock {file}, and meanwhile nothing came from who has it "
        f"({_holder_of(file)}): end that process, unless it computes (the checksum of a file of 75 GB takes minutes), "
        "or mend what it waits for, such as a file system that does not answer; it is tried again",
    )
