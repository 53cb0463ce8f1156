"""Read tensors from a ``torch.save`` file without torch, and without running what is in it.

The file is a zip archive: ``<name>/data.pkl`` is a pickle whose tensors refer to ``<name>/data/<key>``, raw
little-endian bytes (PyTorch 1.6 and newer). The unpickler knows the few names that tensors and plain containers need,
and no others.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import zipfile
import zlib
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
_DAMAGE = (
    OSError, EOFError, ArithmeticError, LookupError, AttributeError, MemoryError, RuntimeError, TypeError, ValueError,
    pickle.UnpicklingError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What zipfile, pickle and NumPy raise on damaged files."""


def read_torch_file(path: str | Path) -> Any:
    """The saved object, tensors as NumPy arrays.

    ``torch.save`` packs nothing, so no member may be larger than the file, nor all tensors together than twice that.

    Raises:
        InvalidTraceError: not such a file, or one that holds anything but tensors and plain containers.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise InvalidTraceError(f"{path}: not a file of torch.save (its members are compressed)")
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise InvalidTraceError(f"{path}: not a file of torch.save (no data.pkl)")
            program, room = archive.read(pickles[0]), 2 * Path(path).stat().st_size
            _check_memo(program)
            return _Unpickler(program, archive, pickles[0].removesuffix("data.pkl"), room).load()
    except InvalidTraceError:
        raise
    except _DAMAGE as error:
        raise InvalidTraceError(f"{path}: {type(error).__name__}: {error}") from error


def _check_memo(program: bytes) -> None:
    """The memo is an array as long as its highest index, which five bytes can set to 2^32."""
    for opcode, argument, _ in pickletools.genops(program):
        if opcode.name in ("PUT", "LONG_BINPUT") and not 0 <= (argument or 0) <= len(program):
            raise pickle.UnpicklingError(f"memo index {argument} in a pickle of {len(program)} bytes")


class _Unpickler(pickle.Unpickler):
    """Knows tensors and plain containers; ``room`` is how many bytes of tensors it may still make."""

    def __init__(self, program: bytes, archive: zipfile.ZipFile, prefix: str, room: int) -> None:
        super().__init__(io.BytesIO(program))
        self._archive, self._prefix, self._room = archive, prefix, room
        self._storages: dict[str, bytes] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._rebuild
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        if module == "collections" and name == "OrderedDict":
            return OrderedDict
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only tensors and plain containers are read")

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        kind, dtype, key = pid[0], pid[1], str(pid[2])
        if kind != "storage" or dtype not in _STORAGES.values():
            raise pickle.UnpicklingError(f"unknown persistent id {kind!r}")
        if key not in self._storages:
            self._storages[key] = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(self._storages[key], dtype=dtype)

    def _rebuild(
        self, storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_unused: Any
    ) -> NDArray[Any]:
        """A copy of the view that the tensor was, checked against the storage's length."""
        if any(n < 0 for n in (*size, *stride, offset)):
            raise ValueError("a tensor with negative size, stride or offset")
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 in size:
            return np.zeros(size, dtype=storage.dtype)
        if last >= len(storage):
            raise ValueError(f"a tensor reaches element {last} of a storage of {len(storage)}")
        # A stride of 0 repeats elements: such a view can be far larger than its storage.
        self._room -= math.prod(size) * storage.itemsize
        if self._room < 0:
            raise ValueError(f"a tensor of size {size}: the tensors are larger than the file")
        strides = [step * storage.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(storage[offset:], size, strides).copy()
