"""Where each tensor of a checkpoint lies, from the headers of its safetensors files; no tensor is read.

Format: https://github.com/huggingface/safetensors#format (8 bytes of length, a JSON header, the tensors' bytes). A
file that is shorter than its header promises is found here, before any process tries to load it. Beside a file that is
still to be fetched lies its outline, which is its header (``moe_serving.fetching.outline``). Which files are read
is what ``from_pretrained`` of transformers decides (``_get_resolved_checkpoint_files``): a single file before an index,
all tensors of the files that an index names, and of one that lies in two of them the one in the last file.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from moe_serving.checkpoint.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes per element of the tensor types experts may have."""

_TRAINERS_PART = re.compile(r"shard-[0-9]{5}-model-[0-9]{5}-of-[0-9]{5}\.safetensors")
"""transformers' name for the files of a training run over several devices (``is_sharded_checkpoint``)."""
_MAX_HEADER_BYTES = 100_000_000
"""The bound of the safetensors library itself; also of an index."""


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor in its file: ``dtype`` in safetensors' words, bytes ``[begin, end)`` of the whole file."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorIndex(Mapping[str, TensorEntry]):
    """All tensors of a checkpoint by name; every file is there and as long as its header says."""

    def __init__(self, path: Path) -> None:
        """
        Raises:
            ModelError: WeightsMissing or WeightsTruncated.
        """
        self.read_by = SINGLE_FILE
        """The file that says what is read."""
        self.unread: str | None = None
        """Another one that would say otherwise, and is not followed."""
        self._entries: dict[str, TensorEntry] = {}
        listed = self._choose(path)
        for file in sorted(set(listed.values())) or [SINGLE_FILE]:
            self._entries.update(_entries_of(path / file))
        for name, file in listed.items():
            if name not in self._entries:
                raise ModelError(
                    "WeightsMissing",
                    f"tensor {name} is not in {path / file}, where {INDEX_FILE} has it; copy the checkpoint again",
                )

    def _choose(self, path: Path) -> dict[str, str]:
        """The file of each tensor by the index of a checkpoint in several files; empty for one in a single file."""
        _refuse_trainers_parts(path)
        single, index = path / SINGLE_FILE, path / INDEX_FILE
        if single.is_file():
            self.unread = INDEX_FILE if index.exists() else None
            return {}
        if not index.is_file():
            raise _no_weights(path)
        self.read_by = INDEX_FILE
        return _read_index(path, index)

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _refuse_trainers_parts(path: Path) -> None:
    """transformers would read such files before all others."""
    parts = sorted(name for name in os.listdir(path) if _TRAINERS_PART.match(name))
    if parts:
        raise ModelError(
            "WeightsMissing",
            f"{path} has {parts[0]}, a part of a training run's checkpoint, which transformers reads in place of "
            f"{SINGLE_FILE}; load it with transformers and save_pretrained it, or take the parts away",
        )


def _no_weights(path: Path) -> ModelError:
    variants = sorted(file.name for file in path.glob("model.*.safetensors*"))
    other = f"; {variants[0]} is read only when transformers is asked for that variant: rename it" if variants else ""
    return ModelError(
        "WeightsMissing",
        f"{path} has neither {SINGLE_FILE} nor {INDEX_FILE}; weights in another format (.bin, .gguf) must be "
        f"converted with transformers' save_pretrained{other}",
    )


def is_inside(name: str) -> bool:
    """Whether a file of this name is one of the folder that tells of it."""
    return not (os.path.isabs(name) or ".." in Path(name).parts or "\0" in name)


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index has it.

    Raises:
        OSError: it cannot be read.
        ValueError: it is none; in words.
    """
    if index.stat().st_size > _MAX_HEADER_BYTES:
        raise ValueError(f"it is larger than {_MAX_HEADER_BYTES} bytes")
    try:
        listed = json.loads(index.read_bytes())["weight_map"]
        return {str(name): str(file) for name, file in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(repr(error)) from error


def _read_index(path: Path, index: Path) -> dict[str, str]:
    try:
        listed = weight_map(index)
    except (OSError, ValueError) as error:
        raise ModelError("WeightsMissing", f"{index} is damaged ({error}); copy the checkpoint again") from error
    if not listed:
        raise ModelError("WeightsMissing", f"{index} names no tensor; copy the checkpoint again")
    for name, file in listed.items():
        if not is_inside(file):
            raise ModelError(
                "WeightsMissing",
                f"{index} has tensor {name:.200} in {file:.200}, which is outside of {path}; put the file into it",
            )
    return listed


def outline_of(file: Path) -> Path:
    """Where the header of a file lies that is still to be fetched."""
    return file.with_name(f"{file.name}.outline")


def _entries_of(file: Path) -> dict[str, TensorEntry]:
    """The tensors of a file that is there, or of one that is still to be fetched."""
    outline = outline_of(file)
    if not file.exists() and outline.is_file():
        with outline.open("rb") as head:
            return read_header(file, head)
    stream, entries = open_file(file)
    stream.close()
    return entries


def open_file(file: Path) -> tuple[BinaryIO, dict[str, TensorEntry]]:
    """The file, opened to be read in pieces, and its tensors by name.

    Raises:
        ModelError: WeightsMissing or WeightsTruncated.
    """
    try:
        stream = file.open("rb")
    except FileNotFoundError:
        raise ModelError("WeightsMissing", f"{file} is missing; copy the checkpoint again") from None
    except OSError as error:
        raise ModelError("WeightsMissing", f"{file} cannot be read: {error.strerror}") from error
    try:
        return stream, read_header(file, stream, os.fstat(stream.fileno()).st_size)
    except BaseException:
        stream.close()
        raise


def header_length(file: Path, first: bytes, size: int) -> int:
    """Bytes of the header of a file, the eight that say it among them.

    Args:
        first: what it begins with, eight bytes or more where it has them.
        size: of the whole file in bytes.

    Raises:
        ModelError: WeightsTruncated.
    """
    length = 8 + int.from_bytes(first[:8], "little")
    if size < 8 or length > size:
        raise _truncated(file, size, length if size >= 8 else 8)
    if length - 8 > _MAX_HEADER_BYTES:
        raise ModelError("WeightsTruncated", f"{file} does not begin with a safetensors header")
    return length


def read_header(file: Path, stream: IO[bytes], size: int = sys.maxsize) -> dict[str, TensorEntry]:
    """The tensors of ``file`` by name, from a stream that begins as it does.

    Args:
        size: of the whole file in bytes; by default as many as its header promises.

    Raises:
        ModelError: WeightsMissing or WeightsTruncated.
    """
    try:
        first = stream.read(8)
        length = header_length(file, first, size) - 8
        header = json.loads(stream.read(length))
        entries = {name: _entry(file, 8 + length, item) for name, item in header.items() if name != "__metadata__"}
    except OSError as error:
        raise ModelError("WeightsMissing", f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("WeightsTruncated", f"{file} has a damaged header ({error}); copy it again") from error
    wanted = max((entry.end for entry in entries.values()), default=8 + length)
    if size < wanted:
        raise _truncated(file, size, wanted)
    return entries


def _entry(file: Path, data_begin: int, item: dict[str, Any]) -> TensorEntry:
    begin, end = (int(offset) for offset in item["data_offsets"])
    shape = tuple(int(length) for length in item["shape"])
    dtype = str(item["dtype"])
    fits = dtype not in ITEM_BYTES or end - begin == math.prod(shape) * ITEM_BYTES[dtype]
    if not (0 <= begin <= end and fits):
        raise ValueError(f"offsets {begin} .. {end} do not fit {dtype} {list(shape)}")
    return TensorEntry(file, dtype, shape, data_begin + begin, data_begin + end)


def _truncated(file: Path, size: int, wanted: int) -> ModelError:
    return ModelError("WeightsTruncated", f"{file} has {size} bytes, its header promises {wanted}; copy it again")
