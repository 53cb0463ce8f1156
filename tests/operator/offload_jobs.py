"""A worker process with jobs that break it: what ``offload.jobs`` is for the operator."""

import contextlib
import os
import sys
import time

from moe_operator.offload.child import main
from moe_operator.offload.names import job_name


class OddError(ValueError):
    """One that no pickle can make anew."""

    def __init__(self, left: int, right: int) -> None:
        super().__init__(f"{left} is not {right}")


def double(number: int) -> int:
    return 2 * number


def nap(seconds: float) -> str:
    time.sleep(seconds)
    return "rested"


def spin(seconds: float) -> str:
    """Take processor time."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return "done"


def fill(megabytes: int) -> int:
    return len(bytearray(megabytes << 20))


def refuse(what: str) -> None:
    raise ValueError(f"{what} is refused")


def refuse_oddly() -> None:
    raise OddError(1, 2)


def die(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(10)


def recurse() -> int:
    return recurse() + 1


def much(megabytes: int) -> bytes:
    return b"x" * (megabytes << 20)


def say(text: str) -> int:
    """Print, as a library may."""
    print(text)
    return os.getpid()


def priority() -> int:
    return os.nice(0)


JOBS = (double, nap, spin, fill, refuse, refuse_oddly, die, recurse, much, say, priority)

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        # By the names under which the tests import them.
        named = {job_name(job).replace("__main__", "offload_jobs"): job for job in JOBS}
        *preparing, parent, memory = sys.argv[1:]
        main(named, int(parent), int(memory), lambda: time.sleep(sum(map(float, preparing))))
