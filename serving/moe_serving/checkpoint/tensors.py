"""Where each tensor of a checkpoint lies, from the headers of its safetensors files; no tensor is read.

Format: https://github.com/huggingface/safetensors#format (8 bytes of length, a JSON header, the tensors' bytes). A
file that is shorter than its header promises is found here, before any process tries to load it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_serving.checkpoint.errors import ModelError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

ITEM_BYTES = {"F32": 4, "BF16": 2, "F16": 2}
"""Bytes per element of the tensor types experts may have."""

_MAX_HEADER_BYTES = 100_000_000
"""The bound of the safetensors library itself."""


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
        self._entries: dict[str, TensorEntry] = {}
        listed = _listed_files(path)
        for file in sorted(set(listed.values())) if listed else [path / SINGLE_FILE]:
            self._entries.update(_read_header(file))
        for name, file in listed.items():
            if name not in self._entries:
                raise ModelError(
                    "WeightsMissing",
                    f"tensor {name} is not in {file}, where {INDEX_FILE} has it; copy the checkpoint again",
                )

    def __getitem__(self, name: str) -> TensorEntry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)


def _listed_files(path: Path) -> dict[str, Path]:
    """The file of each tensor by the index of a checkpoint in several files; empty for one in a single file."""
    index = path / INDEX_FILE
    if not index.exists():
        if (path / SINGLE_FILE).exists():
            return {}
        raise ModelError(
            "WeightsMissing",
            f"{path} has neither {SINGLE_FILE} nor {INDEX_FILE}; weights in another format (.bin, .gguf) must be "
            "converted with transformers' save_pretrained",
        )
    try:
        weight_map = json.loads(index.read_bytes())["weight_map"]
        # An index must not lead out of the checkpoint's directory.
        return {str(name): path / Path(str(file)).name for name, file in weight_map.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError("WeightsMissing", f"{index} is damaged ({error!r}); copy the checkpoint again") from error


def _read_header(file: Path) -> dict[str, TensorEntry]:
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or 8 + length > size:
                raise _truncated(file, size, 8 + length if size >= 8 else 8)
            if length > _MAX_HEADER_BYTES:
                raise ModelError("WeightsTruncated", f"{file} does not begin with a safetensors header")
            header = json.loads(stream.read(length))
        entries = {name: _entry(file, 8 + length, item) for name, item in header.items() if name != "__metadata__"}
    except FileNotFoundError:
        raise ModelError("WeightsMissing", f"{file} is missing; copy the checkpoint again") from None
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
