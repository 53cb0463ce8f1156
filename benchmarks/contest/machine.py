"""On what it is measured, and what there would falsify it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

SLOWING = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ATEN_", "DNNL_", "ONEDNN_")
"""Beginnings of variables that say how torch computes. Some that are harmless to us ruin the baseline."""
ROOM = 1.15
"""Memory beside weights: interpreters, libraries, caches."""
PROCESS_BYTES = 700 << 20
LOOK_S = 2.0
BUSY_CORES = 0.2
"""Beyond so much other work ratios mean little: threads of the baseline wait for each other in a loop, and where one
is not on a core wait for nothing. Seen at a load of 7: a hundredth of its speed, and a third of ours."""


def slowing(environment: Mapping[str, str]) -> list[str]:
    """Settings, ``NAME=value``, that may slow the baseline down."""
    return sorted(f"{name}={value}" for name, value in environment.items() if name.startswith(SLOWING))


def described() -> dict[str, Any]:
    """Of the machine and what runs on it, by what changes figures."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "niceness": os.nice(0),
        "load": round(os.getloadavg()[0], 2),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }


def busy_cores() -> float:
    """How many cores compute, for anybody, while we rest for a moment."""
    begin, before = time.monotonic(), _busy_ticks()
    time.sleep(LOOK_S)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - begin)


def _busy_ticks(stat: Path = Path("/proc/stat")) -> int:
    """Of all cores since the start, see proc_stat(5): all but idle and waiting for a disk."""
    user, nice, system, _, _, *interrupts = (int(ticks) for ticks in stat.read_text().split("\n", 1)[0].split()[1:9])
    return user + nice + system + sum(interrupts)


def needed_bytes(parameters: int, item_bytes: int, teams: int) -> int:
    """Of memory, roughly: each process with contestants holds a model, shards included."""
    return int(teams * (ROOM * parameters * item_bytes + PROCESS_BYTES))


def available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Memory that can be had without swapping."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{meminfo} does not say how much memory is available")
