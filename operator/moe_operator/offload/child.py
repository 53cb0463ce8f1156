"""The other process: ``python -m moe_operator.offload.child [PREPARATION] PARENT MEMORY``, started by ``process``.

It prepares itself, says that it is ready, takes jobs from standard input and answers on standard output, one at a time,
until its input or its parent ends.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import pickle
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from moe_operator.offload.frames import DONE, HEAD, OUT_OF_MEMORY, RAISED, READY, Frame, packed, unpacked

NICENESS = 10
_PR_SET_PDEATHSIG = 1


def main(
    jobs: Mapping[str, Callable[..., Any]], parent: int, memory: int, prepare: Callable[[], None] = lambda: None
) -> None:
    """Work until the input ends; ``memory`` is in bytes, beyond what the process has once it has prepared itself."""
    _die_with(parent)
    os.nice(NICENESS)
    # Ctrl-C in a terminal reaches the whole process group: the parent decides what becomes of this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_pipes()
    prepare()
    _bound_memory(memory)
    replies.write(READY)
    replies.flush()
    while (frame := _read(requests)) is not None:
        ending, reply = _reply(jobs, frame)
        del frame
        for part in reply:
            replies.write(part)
        replies.flush()
        if ending == OUT_OF_MEMORY:
            return  # with the memory in pieces; the next job gets a process of its own


def _die_with(parent: int) -> None:
    """A job that is computing sees no end of its input: the kernel ends this process with its parent."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(0)


def _take_pipes() -> tuple[BufferedReader, BinaryIO]:
    """The two pipes; whatever else would be printed goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return os.fdopen(0, "rb", closefd=False), replies


def _bound_memory(allowance: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()
    page = resource.getpagesize()
    for kind, used in ((resource.RLIMIT_AS, int(pages[0])), (resource.RLIMIT_DATA, int(pages[5]))):
        resource.setrlimit(kind, (used * page + allowance,) * 2)


def _bound_time(seconds: float) -> None:
    """Of processor time, from now on; beyond it the kernel ends the process."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    soft = math.ceil(usage.ru_utime + usage.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (soft, resource.RLIM_INFINITY))


def _read(requests: BufferedReader) -> tuple[bytes, bytearray] | None:
    """The pickle and the bytes beside it of the next frame; None at the end of the input."""
    head = requests.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    size, beside = HEAD.unpack(head)
    body, raw = requests.read(size), bytearray(beside)
    return (body, raw) if len(body) == size and requests.readinto(raw) == beside else None


def _reply(jobs: Mapping[str, Callable[..., Any]], frame: tuple[bytes, bytearray]) -> tuple[str, Frame]:
    """How a job ended, and the frame that says so."""
    try:
        ending, result = _work(jobs, *frame)
        return ending, packed((ending, result))
    except MemoryError:
        return OUT_OF_MEMORY, packed((OUT_OF_MEMORY, None))


def _work(jobs: Mapping[str, Callable[..., Any]], body: bytes, beside: bytearray) -> tuple[str, Any]:
    try:
        name, seconds, arguments = unpacked(body, beside)
        _bound_time(seconds)
        return DONE, jobs[name](*arguments)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001  # whoever asked is told, and knows what it means
        return RAISED, _portable(error)


def _portable(error: Exception) -> Exception:
    """With its traceback, which no pickle carries, as a note; as text where the error itself cannot be pickled."""
    error.add_note("".join(["in the worker process:\n", *traceback.format_tb(error.__traceback__)]))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  # whatever an error's own constructor raises
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    from moe_operator.offload.jobs import JOBS, PREPARATIONS

    *preparation, parent, memory = sys.argv[1:]
    main(JOBS, int(parent), int(memory), *(PREPARATIONS[each] for each in preparation))
