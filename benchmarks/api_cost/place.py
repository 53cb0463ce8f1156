"""An api that can be asked, and the processes whose clocks are read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

OURS, PROXY, CLIENT = "api", "proxy", "client"
"""Processes: the api's, Serve's proxy, and this one."""


@dataclass(frozen=True, slots=True)
class Place:
    """Attributes:
    url: of the API, with ``/v1`` at its end.
    processes: ids of those that tokens pass through on their way to this one; ``OURS`` is among them.
    """

    url: str
    processes: Mapping[str, int]

    def cpu_seconds(self) -> dict[str, float]:
        """Of each process since its start, all of its threads; and of this one, ``CLIENT``."""
        return {
            **{name: time.clock_gettime(_clock_of(pid)) for name, pid in self.processes.items()},
            CLIENT: time.process_time(),
        }


def _clock_of(pid: int) -> int:
    """What clock_getcpuclockid(3) gives for a process: the kernel's own count, in nanoseconds."""
    return (~pid << 3) | 2
