"""Read the arrays of an ``.npz`` file that somebody else wrote: whatever is wrong is one error that names the file."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.errors import InvalidTraceError

SINGLE = b"\x93NUMPY"
"""How a file of one array begins."""
DAMAGE = (
    OSError, ValueError, EOFError, KeyError, TypeError, AttributeError, RuntimeError, MemoryError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""What NumPy and zipfile raise on damaged archives (encrypted or unknown members are RuntimeErrors)."""


def read_arrays(path: str | Path) -> dict[str, NDArray[Any]]:
    """All arrays of the file by name; pickles are never loaded.

    Raises:
        InvalidTraceError: no such file, or not a sound ``.npz`` archive of plain arrays.
    """
    try:
        with Path(path).open("rb") as stream:  # np.load leaves a file open where the archive is damaged
            if stream.read(len(SINGLE)) == SINGLE:
                raise InvalidTraceError(f"{path}: a single array (.npy); an archive of arrays (.npz) is expected")
            if not zipfile.is_zipfile(stream):  # np.load would take it for a pickle, and advise to load that
                raise InvalidTraceError(f"{path}: not a sound .npz archive (no zip file)")
            stream.seek(0)
            loaded = np.load(stream, allow_pickle=False)
            return {name: loaded[name] for name in loaded.files}
    except InvalidTraceError:
        raise
    except DAMAGE as error:
        raise InvalidTraceError(f"{path}: not a sound .npz archive ({error})") from error


def scalar(path: str | Path, arrays: dict[str, NDArray[Any]], name: str, kinds: str) -> Any:
    """The only value of an array without dimensions; ``kinds`` are the dtype kinds that it may have.

    Raises:
        InvalidTraceError: it is missing, has dimensions or is of another kind.
    """
    value = arrays.get(name)
    if value is None or value.ndim or value.dtype.kind not in kinds:
        found = "missing" if value is None else f"{value.dtype} of shape {value.shape}"
        raise InvalidTraceError(f"{path}: {name} must be a single value of dtype kind {kinds}, it is {found}")
    return value.item()
