"""Memory for many experts of one form: slots side by side, one slab ``[slots, …]`` per projection.

On the CPU a slab takes memory from the system only where a slot was written, and gives a freed slot's back. On another
device all of it is taken at once and given back with the slab.
"""

from __future__ import annotations

import contextlib
import math
import mmap

import torch
from torch import Tensor

from moe_contract.memory import BLOCK_BYTES
from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights

MOST_SLOTS = 64
"""Of one block."""
HUGE_PAGES_FROM = 1 << 20
"""Slots of so many bytes are filled by huge pages where the system has them: reading into fresh memory takes half as
long. One may reach into the next slot, and what is given back of one that others use is free only once the system is
short of memory, up to 4 MB a slot: of smaller slots that would be more than they have."""


class Slab:
    """One projection of some experts.

    Attributes:
        tensors: ``[slots, *shape]``. Each slot is contiguous and begins on a page: the last bit of a product may depend
            on how its factors are aligned, and an expert must answer alike from any slot.
    """

    def __init__(self, slots: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
        self._stride = _whole_pages(math.prod(shape) * dtype.itemsize)
        self._memory: mmap.mmap | None = None
        if device.type == "cpu":
            self._memory = mmap.mmap(-1, slots * self._stride, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if self._stride >= HUGE_PAGES_FROM:
                with contextlib.suppress(OSError):  # a kernel without them
                    self._memory.madvise(mmap.MADV_HUGEPAGE)
            whole = torch.frombuffer(self._memory, dtype=dtype)
        else:
            whole = torch.empty(slots * self._stride // dtype.itemsize, dtype=dtype, device=device)
        self.tensors: Tensor = whole.as_strided((slots, *shape), (self._stride // dtype.itemsize, shape[1], 1))

    def give_back(self, slot: int) -> None:
        """What ``slot`` holds is wanted no more, and may be gone."""
        if self._memory is not None:
            self._memory.madvise(mmap.MADV_DONTNEED, slot * self._stride, self._stride)


class Block:
    """Slots that come and go together, numbered from 0.

    Attributes:
        slots: how many.
        used: how many of them are not vacant.
    """

    def __init__(self, slots: int, form: ExpertForm, device: torch.device) -> None:
        self.slots = slots
        self.used = 0
        self.gate_up = Slab(slots, form.gate_up, form.dtype, device)
        self.down = Slab(slots, form.down, form.dtype, device)
        self._activation = form.activation

    def weights(self, slot: int) -> ExpertWeights:
        """A slot's tensors: views, so that who writes to them fills the slot."""
        return ExpertWeights(self.gate_up.tensors[slot], self.down.tensors[slot], self._activation)

    def give_back(self, slot: int) -> None:
        """See ``Slab.give_back``."""
        self.gate_up.give_back(slot)
        self.down.give_back(slot)


def slots_per_block(form: ExpertForm) -> int:
    """As many as ``BLOCK_BYTES`` take: one at least, and not so many that making them takes long. A pool grows by
    blocks, so that nothing that it holds has ever to be moved.
    """
    return min(max(1, BLOCK_BYTES // form.nbytes), MOST_SLOTS)


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
