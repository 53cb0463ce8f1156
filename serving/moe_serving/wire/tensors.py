"""A message: a few fixed bytes and some tensors, as the body of one frame. No tensor is copied on either side.

Body, little-endian::

    meta length u16 | tensors u8 | 0 u8 | meta | descriptor per tensor | padding | tensor | padding | tensor …

    descriptor: dtype u8 | dimensions u8 | 0 u16 | 3 dimensions u32

Every tensor begins at a multiple of 64 bytes. NumPy only, so that processes without torch can speak it; bfloat16 and
e4m3, which NumPy lacks, travel as uint16 and uint8 under their own tags (``torch_tensors`` converts).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_serving.wire.errors import ProtocolError
from moe_serving.wire.frames import Buffer

MAX_DIMENSIONS = 3
_ALIGNMENT = 64
_PREFIX = struct.Struct("<HBB")
_DESCRIPTOR = struct.Struct("<BBHIII")
_ZEROS = bytes(_ALIGNMENT)


class DType(IntEnum):
    """Element types on the wire."""

    FLOAT32 = 1
    FLOAT16 = 2
    BFLOAT16 = 3
    INT32 = 4
    INT64 = 5
    FLOAT8_E4M3 = 6


STORAGE: dict[int, np.dtype[Any]] = {
    DType.FLOAT32: np.dtype("<f4"),
    DType.FLOAT16: np.dtype("<f2"),
    DType.BFLOAT16: np.dtype("<u2"),
    DType.INT32: np.dtype("<i4"),
    DType.INT64: np.dtype("<i8"),
    DType.FLOAT8_E4M3: np.dtype("u1"),
}
"""The NumPy type whose bytes a wire type has."""


@dataclass(frozen=True, slots=True)
class WireTensor:
    """An array and the type its elements really have; ``array.dtype`` is ``STORAGE[dtype]``."""

    dtype: DType
    array: NDArray[Any]


def encode_message(meta: bytes, tensors: Sequence[WireTensor]) -> list[Buffer]:
    """The parts of a frame's body; C-contiguous arrays are passed on as they are, others are copied first."""
    descriptors = b"".join(_describe(tensor) for tensor in tensors)
    parts: list[Buffer] = [_PREFIX.pack(len(meta), len(tensors), 0) + meta + descriptors]
    position = len(parts[0])
    for tensor in tensors:
        padding = -position % _ALIGNMENT
        if padding:
            parts.append(_ZEROS[:padding])
        data = np.ascontiguousarray(tensor.array)
        if data.nbytes:
            parts.append(data.data.cast("B"))
        position += padding + data.nbytes
    return parts


def _describe(tensor: WireTensor) -> bytes:
    shape = tensor.array.shape
    if len(shape) > MAX_DIMENSIONS:
        raise ProtocolError(f"a tensor of shape {shape} has more than {MAX_DIMENSIONS} dimensions")
    return _DESCRIPTOR.pack(tensor.dtype, len(shape), 0, *shape, *(0,) * (MAX_DIMENSIONS - len(shape)))


def decode_message(body: memoryview) -> tuple[memoryview, tuple[WireTensor, ...]]:
    """Meta bytes and tensors of a body; all are views of it.

    Raises:
        ProtocolError: sizes that do not fit the body, an unknown element type, or bytes left over.
    """
    try:
        meta_length, count, _ = _PREFIX.unpack_from(body)
        position = _PREFIX.size + meta_length
        meta = body[_PREFIX.size : position]
        descriptors = [_DESCRIPTOR.unpack_from(body, position + i * _DESCRIPTOR.size) for i in range(count)]
    except struct.error as error:
        raise ProtocolError(f"a body of {len(body)} bytes ends inside its description: {error}") from None
    position += count * _DESCRIPTOR.size
    tensors = []
    for dtype, dimensions, _, *shape in descriptors:
        tensor, position = _read_tensor(body, position, dtype, shape[:dimensions], dimensions)
        tensors.append(tensor)
    if position != len(body):
        raise ProtocolError(f"the body has {len(body)} bytes, its tensors end at {position}")
    return meta, tuple(tensors)


def _read_tensor(
    body: memoryview, position: int, dtype: int, shape: list[int], dimensions: int
) -> tuple[WireTensor, int]:
    storage = STORAGE.get(dtype)
    if storage is None or dimensions > MAX_DIMENSIONS:
        raise ProtocolError(f"unknown tensor: element type {dtype}, {dimensions} dimensions")
    start = position + -position % _ALIGNMENT
    elements = math.prod(shape)
    end = start + elements * storage.itemsize
    if end > len(body):
        raise ProtocolError(f"a tensor of shape {shape} ends at byte {end} of a body of {len(body)} bytes")
    array = np.frombuffer(body, dtype=storage, count=elements, offset=start) if elements else np.empty(0, storage)
    try:
        return WireTensor(DType(dtype), array.reshape(shape)), end
    except ValueError as error:  # an empty tensor whose other dimensions overflow an address
        raise ProtocolError(f"impossible tensor shape {shape}: {error}") from None
