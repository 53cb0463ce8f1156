"""Read tensors from a ``torch.save`` file without torch, and without running what is in it.

The file is a zip archive: ``<name>/data.pkl`` is a pickle whose tensors refer to ``<name>/data/<key>``, raw
little-endian bytes (PyTorch 1.6 and newer). The unpickler knows the few names that tensors and plain containers need,
and no others.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.errors import InvalidTraceError

_STORAGES = {
    "ByteStorage": "u1", "CharStorage": "i1", "ShortStorage": "<i2", "IntStorage": "<i4", "LongStorage": "<i8",
    "HalfStorage": "<f2", "FloatStorage": "<f4", "DoubleStorage": "<f8", "BoolStorage": "?",
}  # fmt: skip


def read_torch_file(path: Path) -> Any:
    """The saved object, tensors as NumPy arrays.

    Raises:
        InvalidTraceError: not such a file, or one that holds anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InvalidTraceError(f"{path}: not a file of torch.save (no data.pkl)")
            with archive.open(pickles[0]) as stream:
                return _Unpickler(stream, archive, pickles[0].removesuffix("data.pkl")).load()
    except (OSError, zipfile.BadZipFile, pickle.UnpicklingError, KeyError, ValueError, TypeError) as error:
        if isinstance(error, InvalidTraceError):
            raise
        raise InvalidTraceError(f"{path}: {error}") from error


class _Unpickler(pickle.Unpickler):
    def __init__(self, stream: Any, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(stream)
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return _rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only tensors and plain containers are read")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, dtype, key = pid[0], pid[1], pid[2]
        if kind != "storage" or dtype not in _STORAGES.values():
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        return np.frombuffer(self._archive.read(f"{self._prefix}data/{key}"), dtype=dtype)


def _rebuild(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_unused: Any
) -> NDArray[Any]:
    """A copy of the view that the tensor was, checked against the storage's length."""
    if any(n < 0 for n in (*size, *stride, offset)):
        raise ValueError("a tensor with negative size, stride or offset")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if 0 in size:
        return np.zeros(size, dtype=storage.dtype)
    if last >= len(storage):
        raise ValueError(f"a tensor reaches element {last} of a storage of {len(storage)}")
    strides = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()
