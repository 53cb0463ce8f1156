"""An api that can be asked, and the process whose clock is read."""

from __future__ import annotations

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes:
    url: of the API, with ``/v1`` at its end.
    pid: of the api's process.
    """

    url: str
    pid: int

    def cpu_seconds(self) -> tuple[float, float]:
        """Of the api's process since its start, all of its threads; and of this process, the client."""
        return time.clock_gettime(_clock_of(self.pid)), time.process_time()


def _clock_of(pid: int) -> int:
    """What clock_getcpuclockid(3) gives for a process: the kernel's own count, in nanoseconds."""
    return (~pid << 3) | 2
