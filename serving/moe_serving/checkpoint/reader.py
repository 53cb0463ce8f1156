"""Single experts from a checkpoint: exactly their bytes are read, to where they are to stay, and nothing stays mapped.

Called by shards. Files are read with ``preadv`` instead of being mapped: a mapped page counts as this process's memory
as long as the mapping lives, and a shard must own its experts' bytes only. (The safetensors library, asked for a slice
without mapping, reads the whole tensor.)
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from moe_serving.checkpoint.checkpoint import Checkpoint
from moe_serving.checkpoint.tensors import TensorEntry, open_file
from moe_serving.fp8.sizes import packed_height

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert: ``gate_up`` ``[2I, H]`` (gate above up), ``down`` ``[H, I]``; ``activation`` acts on the gate."""

    gate_up: Tensor
    down: Tensor
    activation: str


@dataclass(frozen=True, slots=True)
class ExpertForm:
    """What all experts of a model have in common as they are served.

    Attributes:
        dtype: of what is held.
        unpacked: the dtype to compute with, where what is held is packed (``fp8.weights``); None where it is the same.
    """

    hidden: int
    intermediate: int
    dtype: torch.dtype
    activation: str
    unpacked: torch.dtype | None = None

    @property
    def rows_dtype(self) -> torch.dtype:
        """Of rows that are computed."""
        return self.unpacked or self.dtype

    @property
    def gate_up(self) -> tuple[int, int]:
        """Shape ``[2I, H]``, or taller where it is packed."""
        return self._height(2 * self.intermediate, self.hidden), self.hidden

    @property
    def down(self) -> tuple[int, int]:
        """Shape ``[H, I]``, likewise."""
        return self._height(self.hidden, self.intermediate), self.intermediate

    @property
    def elements(self) -> int:
        """Of one expert."""
        return math.prod(self.gate_up) + math.prod(self.down)

    @property
    def nbytes(self) -> int:
        """Of one expert."""
        return self.elements * self.dtype.itemsize

    def _height(self, rows: int, columns: int) -> int:
        return rows if self.unpacked is None else packed_height(rows, columns)


class ExpertReader:
    """Reads experts of one checkpoint in the dtype and to the device served. Safe to use from several threads."""

    def __init__(self, path: str | Path, dtype: str, device: str) -> None:
        """
        Args:
            dtype: float32, bfloat16, float16, or ``auto`` for the checkpoint's own.
            device: as torch names it.

        Raises:
            ModelError: the checkpoint cannot be served.
        """
        self._checkpoint = Checkpoint.open(path)
        config = self._checkpoint.config
        served: torch.dtype = getattr(torch, self._checkpoint.served_dtype(dtype))
        self._form = ExpertForm(config.hidden, config.intermediate, served, config.activation)
        self._device = torch.device(device)
        self._files: dict[Path, BinaryIO] = {}
        weakref.finalize(self, _close, self._files)
        self._lock = threading.Lock()

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    @property
    def form(self) -> ExpertForm:
        """What ``read_into`` fills."""
        return self._form

    def read(self, layer: int, expert: int) -> ExpertWeights:
        """One expert's weights in memory of their own; as ``read_into``."""
        form = self.form
        gate_up, down = (torch.empty(s, dtype=form.dtype, device=self._device) for s in (form.gate_up, form.down))
        weights = ExpertWeights(gate_up, down, form.activation)
        self.read_into(weights, layer, expert)
        return weights

    def read_into(self, weights: ExpertWeights, layer: int, expert: int) -> None:
        """Fill ``weights``, contiguous tensors of ``form``, with one expert's; ``layer`` counts MoE layers only.

        Raises:
            OSError, ModelError: the file changed or vanished since it was checked; what is filled then is undefined.
        """
        tensors = self._checkpoint.expert_tensors(layer, expert)
        begin = 0
        for part in tensors.gate_up:
            place = _place(self._checkpoint.tensors[part.name], part.expert)
            self._read(place, weights.gate_up[begin : begin + place.shape[0]])
            begin += place.shape[0]
        self._read(_place(self._checkpoint.tensors[tensors.down.name], tensors.down.expert), weights.down)

    def _read(self, place: TensorEntry, target: Tensor) -> None:
        """Straight into ``target`` where it lies on the CPU as it is stored, else by way of a buffer."""
        stored = _TYPES[place.dtype]
        straight = target.is_cpu and target.dtype == stored
        buffer = target if straight else torch.empty(place.shape, dtype=stored)
        _fill(self._open(place.file), as_bytes(buffer), place.begin)
        if not straight:
            target.copy_(buffer)

    def _open(self, file: Path) -> BinaryIO:
        """Files stay open: parsing the header of a large one takes longer than reading an expert."""
        with self._lock:
            if file not in self._files:
                stream, entries = open_file(file)
                for name, entry in self._checkpoint.tensors.items():
                    if entry.file == file and entries.get(name) != entry:
                        stream.close()
                        raise OSError(f"{file} has changed since it was checked: tensor {name} is not where it was")
                self._files[file] = stream
            return self._files[file]


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU, as it is."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _place(entry: TensorEntry, expert: int | None) -> TensorEntry:
    """Where a tensor lies, or the slice of it that is one expert's."""
    if expert is None:
        return entry
    size = (entry.end - entry.begin) // entry.shape[0]
    begin = entry.begin + expert * size
    return replace(entry, shape=entry.shape[1:], begin=begin, end=begin + size)


def _close(files: dict[Path, BinaryIO]) -> None:
    for stream in files.values():
        stream.close()


def _fill(stream: BinaryIO, buffer: memoryview, offset: int) -> None:
    """Read as many bytes as ``buffer`` has; several threads may do so at once."""
    while buffer:
        count = os.preadv(stream.fileno(), [buffer], offset)
        if count == 0:
            raise OSError(f"{stream.name} has become shorter since it was checked")
        buffer, offset = buffer[count:], offset + count
