"""The last leg of weights that are loaded: from the thread that reads or receives them to where they are to stay.

On the CPU there is none: they are read straight into their place. To a GPU they go by pinned buffers and a stream of
their own, so that the next part is read while one is on its way, and nothing waits for what is computed meanwhile. That
has not run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

MOST_BYTES = 1 << 20
"""Of one part. Small enough that several threads share one expert, and that a part is still in a core's cache when its
checksums are made."""
_BUFFERS = 2
"""Pinned, of ``MOST_BYTES`` each, for each thread that loads: one is filled while another one is copied."""

Fill = Callable[[memoryview], None]
"""Writes the bytes of a part."""


class Matrix:
    """A contiguous tensor that is filled part by part.

    Attributes:
        flat: all of it.
        memory: its bytes; None where it is not on the CPU.
    """

    __slots__ = ("flat", "memory")

    def __init__(self, tensor: Tensor) -> None:
        self.flat = tensor.view(-1)
        self.memory = as_bytes(tensor) if tensor.is_cpu else None


class Landing(Protocol):
    """Of one thread."""

    def put(self, matrix: Matrix, begin: int, end: int, fill: Fill) -> None:
        """Bring what ``fill`` writes to bytes ``[begin, end)``, at most ``MOST_BYTES``; it is certain to be there only
        after ``finish``.
        """
        ...

    def finish(self) -> None:
        """Wait until all is there."""
        ...


def landing_on(device: torch.device) -> Landing:
    """By the kind of device."""
    return _Straight() if device.type == "cpu" else _Pinned(device)


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, as it is."""
    return tensor.view(-1).view(torch.uint8).numpy().data


class _Straight:
    def put(self, matrix: Matrix, begin: int, end: int, fill: Fill) -> None:
        if matrix.memory is None:
            raise ValueError(f"a tensor on {matrix.flat.device} is filled as one of the CPU")
        fill(matrix.memory[begin:end])

    def finish(self) -> None:
        pass


class _Pinned:
    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own lack
        self._buffers = [_Buffer() for _ in range(_BUFFERS)]
        self._turn = 0

    def put(self, matrix: Matrix, begin: int, end: int, fill: Fill) -> None:
        buffer = self._buffers[self._turn % len(self._buffers)]
        self._turn += 1
        buffer.copied.synchronize()
        fill(as_bytes(buffer.memory[: end - begin]))
        flat, item = matrix.flat, matrix.flat.itemsize
        # What is filled may be memory that work under way on the other stream still reads, though its owner is gone.
        self._stream.wait_stream(torch.cuda.current_stream(flat.device))
        with torch.cuda.stream(self._stream):
            part = buffer.memory[: end - begin].view(flat.dtype)
            flat[begin // item : end // item].copy_(part, non_blocking=True)
            buffer.copied.record(self._stream)

    def finish(self) -> None:
        self._stream.synchronize()


class _Buffer:
    def __init__(self) -> None:
        self.memory = torch.empty(MOST_BYTES, dtype=torch.uint8, pin_memory=True)
        self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's own lack
