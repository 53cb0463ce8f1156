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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from torch import Tensor

from moe_serving.checkpoint.checkpoint import Checkpoint
from moe_serving.checkpoint.digest import Checksums
from moe_serving.checkpoint.landing import MOST_BYTES, Landing, Matrix, as_bytes, landing_on
from moe_serving.checkpoint.layout import ExpertPart
from moe_serving.checkpoint.team import Team
from moe_serving.checkpoint.tensors import ITEM_BYTES, TensorEntry, open_file
from moe_serving.fp8.sizes import packed_height

STORED = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""Types of tensors by safetensors' words."""
MOST_THREADS = 4
"""That read one expert side by side, and on a small machine as many as there are cores: a single one gets about half of
what two cores copy from the page cache, and disks want several requests at once."""


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

    def checksums(self) -> Checksums:
        """For one expert: matrix 0 is ``gate_up``, 1 ``down``."""
        return Checksums(*(math.prod(shape) * self.dtype.itemsize for shape in (self.gate_up, self.down)))

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
        self._team = Team(reading_threads())
        self._landings = _Landings(self._device)

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

    def read_into(self, weights: ExpertWeights, layer: int, expert: int) -> bytes:
        """Fill ``weights``, contiguous tensors of ``form``, with one expert's; ``layer`` counts MoE layers only.

        Parts of it are read side by side by up to ``MOST_THREADS`` threads.

        Returns:
            The digest of what is filled.

        Raises:
            OSError, ModelError: the file changed or vanished since it was checked; what is filled then is undefined.
        """
        stored = self._checkpoint.expert_tensors(layer, expert)
        sums = self._form.checksums()
        parts = [*self._parts(0, weights.gate_up, stored.gate_up), *self._parts(1, weights.down, (stored.down,))]
        self._team.do(parts, partial(self._read_parts, sums))
        return sums.digest()

    def _parts(self, number: int, target: Tensor, stored: Sequence[ExpertPart]) -> Iterator[_Part]:
        """Of ``target``, of which tensors that are ``stored`` lie one above the other."""
        matrix, item = Matrix(target), target.itemsize
        tensors, edge = [], 0
        for part in stored:
            place = _place(self._checkpoint.tensors[part.name], part.expert)
            begin, edge = edge, edge + math.prod(place.shape) * item
            tensors.append((begin, edge, self._open(place.file), place))
        for first in range(0, edge, MOST_BYTES):
            last = min(first + MOST_BYTES, edge)
            runs = []
            for begin, end, stream, place in tensors:
                if begin < last and end > first:
                    low, high = max(first, begin), min(last, end)
                    offset = place.begin + (low - begin) // item * ITEM_BYTES[place.dtype]
                    runs.append(_Run(stream, offset, STORED[place.dtype], low - first, high - first))
            yield _Part(number, matrix, first, last, runs)

    def _read_parts(self, sums: Checksums, parts: Iterator[_Part]) -> None:
        """On one of the threads that read."""
        landing = self._landings.of_this_thread
        try:
            for part in parts:
                landing.put(part.matrix, part.begin, part.end, partial(self._read_part, part, sums))
        finally:
            # Also where it fails: somebody else may fill the same memory next.
            landing.finish()

    def _read_part(self, part: _Part, sums: Checksums, into: memoryview) -> None:
        for run in part.runs:
            target = into[run.first : run.last]
            if run.dtype == self._form.dtype:
                _fill(run.stream, target, run.begin)
            else:
                served = torch.frombuffer(target, dtype=self._form.dtype)
                read = torch.empty(len(served), dtype=run.dtype)
                _fill(run.stream, as_bytes(read), run.begin)
                served.copy_(read)
        sums.add(part.number, part.begin, into)

    def _open(self, file: Path) -> BinaryIO:
        """Files stay open: parsing the header of a large one takes longer than reading an expert."""
        with self._lock:
            if file not in self._files:
                stream, entries = open_file(file)
                for name, entry in self._checked[file].items():
                    if entries.get(name) != entry:
                        stream.close()
                        raise OSError(f"{file} has changed since it was checked: tensor {name} is not where it was")
                self._files[file] = stream
            return self._files[file]

    @cached_property
    def _checked(self) -> dict[Path, dict[str, TensorEntry]]:
        """The checkpoint's tensors by file: there may be hundreds of files with many thousands of tensors."""
        found: dict[Path, dict[str, TensorEntry]] = {}
        for name, entry in self._checkpoint.tensors.items():
            found.setdefault(entry.file, {})[name] = entry
        return found


class _Run(NamedTuple):
    """What one stored tensor has of a part: from byte ``begin`` of its file on, bytes ``[first, last)`` of the part."""

    stream: BinaryIO
    begin: int
    dtype: torch.dtype
    first: int
    last: int


class _Part(NamedTuple):
    """Bytes ``[begin, end)`` of an expert's matrix, 0 for ``gate_up`` and 1 for ``down``."""

    number: int
    matrix: Matrix
    begin: int
    end: int
    runs: Sequence[_Run]


class _Landings(threading.local):
    """Each thread has its own."""

    def __init__(self, device: torch.device) -> None:
        self.of_this_thread: Landing = landing_on(device)


def reading_threads() -> int:
    """How many read side by side on this machine."""
    return min(MOST_THREADS, len(os.sched_getaffinity(0)))


def digest_of(weights: ExpertWeights) -> bytes:
    """Of an expert's bytes as they are held."""
    sums = Checksums(weights.gate_up.nbytes, weights.down.nbytes)
    for number, tensor in enumerate((weights.gate_up, weights.down)):
        flat = tensor.view(-1)
        step = MOST_BYTES // flat.itemsize
        for first in range(0, len(flat), step):
            sums.add(number, first * flat.itemsize, as_bytes(flat[first : first + step].cpu()))
    return sums.digest()


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
