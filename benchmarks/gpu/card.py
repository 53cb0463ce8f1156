"""The device: found, named, its clock and its bandwidth; a CPU where Triton interprets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import triton

CALLS = 10
"""Between two looks at the device's clock."""


class NoCardError(Exception):
    """There is nothing to measure on."""


@dataclass(frozen=True, slots=True)
class Card:
    """Attributes:
    shared_bytes: memory of a multiprocessor that one program may have.
    memory: bytes of the device.
    """

    name: str
    device: torch.device
    shared_bytes: int
    memory: int

    @property
    def interpreted(self) -> bool:
        return self.device.type == "cpu"

    def seconds(self, call: Callable[[], object], rounds: int, before: Callable[[], object] = lambda: None) -> float:
        """Of one call, when ``CALLS`` follow each other: the median of the rounds.

        Args:
            before: each round, and not counted.
        """
        found = []
        for _ in range(rounds + 1):  # the first warms up
            before()
            found.append(self._round(call))
        return median(found[1:])

    def waited(self, call: Callable[[], object], calls: int) -> float:
        """Of one call that ends when the host has its result, launches and all: the median."""
        found = []
        for _ in range(calls):
            begin = time.perf_counter()
            call()
            found.append(time.perf_counter() - begin)
        return median(found)

    def _round(self, call: Callable[[], object]) -> float:
        if self.interpreted:
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin_event.record()
        for _ in range(CALLS):
            call()
        end_event.record()
        torch.cuda.synchronize()
        return begin_event.elapsed_time(end_event) / CALLS / 1e3

    def graphed(self, call: Callable[[], object]) -> Callable[[], object]:
        """The same as one CUDA graph; as it is where there are none."""
        if self.interpreted:
            return call
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                call()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            call()
        return graph.replay

    def bandwidth(self, size: int, rounds: int) -> float:
        """Bytes a second that are read and written when ``size`` of them are copied, of the fastest round."""
        source = torch.zeros(size, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        target.copy_(source)
        return 2 * size / min(self._round(lambda: target.copy_(source)) for _ in range(rounds))

    def facts(self) -> dict[str, Any]:
        """Of what figures depend on."""
        return {
            "device": self.name, "memory_bytes": self.memory, "torch": torch.__version__, "triton": triton.__version__,
            "cuda": torch.version.cuda, "date": time.strftime("%Y-%m-%d"),
        }  # fmt: skip


def find() -> Card:
    """
    Raises:
        NoCardError: there is no GPU, and Triton does not interpret.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return Card("Triton's interpreter on a CPU", torch.device("cpu"), 227 << 10, 0)
    if not torch.cuda.is_available():
        raise NoCardError(
            "there is no NVIDIA GPU that torch can use: this check needs one, an H100 or H200 for its aims"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    found: Any = torch.cuda.get_device_properties(device)
    return Card(found.name, device, found.shared_memory_per_block_optin, found.total_memory)
