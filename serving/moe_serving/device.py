"""Which device a process computes on, and how much memory that has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from moe_contract.applications import Device


def resolve_device(device: Device, number: int = 0) -> torch.device:
    """``auto`` is CUDA where there is one, and the CPU elsewhere.

    Args:
        number: of the process among its like. Ray shows all GPUs of a node to an actor that asked for none: such
            processes take one each, in turn. One that asked sees its own only.
    """
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    return torch.device("cuda", number % max(1, torch.cuda.device_count()))


def memory_of(device: torch.device) -> int:
    """Bytes of it in all, whoever else uses it: of a CPU what this process may take of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits()])


def _group_limits() -> Iterator[int]:
    """Of control groups, as containers have them: of version 2, then of version 1."""
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # there is none, or it is "max"
            yield int(Path(file).read_text())
