"""Single experts from a checkpoint: exactly their bytes are read, nothing stays mapped.

Called by shards. Files are read with ``preadv`` instead of being mapped: a mapped page counts as this process's memory
as long as the mapping lives, and a shard must own its experts' bytes only. (The safetensors library, asked for a slice
without mapping, reads the whole tensor.)
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from moe_serving.checkpoint.checkpoint import Checkpoint
from moe_serving.checkpoint.layout import ExpertPart
from moe_serving.checkpoint.tensors import TensorEntry, open_file

_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert: ``gate_up`` ``[2I, H]`` (gate above up), ``down`` ``[H, I]``; ``activation`` acts on the gate."""

    gate_up: Tensor
    down: Tensor
    activation: str


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
        self._dtype: torch.dtype = getattr(torch, self._checkpoint.served_dtype(dtype))
        self._device = torch.device(device)
        self._files: dict[Path, BinaryIO] = {}
        weakref.finalize(self, _close, self._files)
        self._lock = threading.Lock()

    @property
    def checkpoint(self) -> Checkpoint:
        return self._checkpoint

    def read(self, layer: int, expert: int) -> ExpertWeights:
        """One expert's weights; ``layer`` counts MoE layers only.

        Raises:
            OSError, ModelError: the file changed or vanished since it was checked.
        """
        tensors = self._checkpoint.expert_tensors(layer, expert)
        gate_up, down = self._read(tensors.gate_up), self._read((tensors.down,))
        return ExpertWeights(gate_up, down, self._checkpoint.config.activation)

    def _read(self, parts: Sequence[ExpertPart]) -> Tensor:
        """The parts one above the other, in one buffer: pieces to be joined would leave holes in memory."""
        places = [_place(self._checkpoint.tensors[part.name], part.expert) for part in parts]
        if len({place.dtype for place in places}) > 1:
            return torch.cat([self._read((part,)) for part in parts])
        stored = torch.empty(sum(place.end - place.begin for place in places), dtype=torch.uint8)
        buffer = memoryview(stored.numpy().data)
        for place in places:
            size = place.end - place.begin
            _fill(self._open(place.file), buffer[:size], place.begin)
            buffer = buffer[size:]
        shape = (sum(place.shape[0] for place in places), *places[0].shape[1:])
        return stored.view(_TYPES[places[0].dtype]).view(shape).to(self._device, self._dtype)

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
