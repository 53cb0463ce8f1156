"""RoutingStatistics as bytes: a header line, then zlib over little-endian arrays.

58 layers x 256 experts with 4,096 sampled sets per layer, their gates and 32 windows stay below 14 MB: pairs as their
upper triangle and transitions in float16 (relative precision 2^-11) scaled per layer, sampled ids in one byte where
experts allow, gates in one byte (254 steps from the least, or 0, to the greatest), every array as one plane per byte
of its items, which zlib packs a fifth better.
A poll every few seconds needs only the loads: ``encoding.encode_counts`` of ``load``, about 60 KB at that size.
"""

from __future__ import annotations

import json
import math
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_LOAD, experts_once, instance
from moe_placement.errors import InvalidStatisticsError
from moe_placement.statistics.core import RoutingStatistics
from moe_placement.statistics.header import FORMAT, Header, Parts, parse_header, part_bytes

_GATE_STEPS = 254
"""Gate weights are 1 .. 255 in a byte; 0 is one that is not known."""


def encode_statistics(statistics: RoutingStatistics) -> bytes:
    """Pack; the window still open is left out."""
    instance(InvalidStatisticsError, "statistics", statistics, RoutingStatistics)
    shape, sample = statistics.shape, statistics.sample
    upper = np.triu_indices(shape.experts, k=1)
    pairs, pair_scale = _half(statistics.pairs[:, upper[0], upper[1]])
    transitions, transition_scale = _half(statistics.transitions.reshape(shape.layers - 1, shape.experts**2))
    arrays = [
        statistics.load.astype("<f8"), pairs, transitions, statistics.windows.astype("<f4"),
        (sample.ids + 1).astype("<u1" if shape.experts < 255 else "<u2"), sample.keys.astype("<f8"),
    ]  # fmt: skip
    known = sample.gates[np.isfinite(sample.gates)].astype(np.float64)
    low, high = float(known.min(initial=0)), float(known.max(initial=0))
    if len(known):
        arrays.append(_pack_gates(sample.gates.astype(np.float64), low, high))
    header = {
        "format": FORMAT, "layers": shape.layers, "experts": shape.experts, "topK": shape.top_k,
        "tokens": statistics.tokens, "capacity": sample.capacity, "samples": len(sample), "gated": len(known) > 0,
        "gateRange": [low, high], "windows": len(statistics.windows), "maxWindows": statistics.max_windows,
        "windowTokens": statistics.window_tokens or 0,
        "windowLength": statistics._length if math.isfinite(statistics._length) else 0,
        "pairScale": pair_scale, "transitionScale": transition_scale,
    }  # fmt: skip
    return json.dumps(header).encode() + b"\n" + _compressed(b"".join(map(_planes, arrays)))


def decode_statistics(data: bytes) -> RoutingStatistics:
    """Inverse of ``encode_statistics``.

    Raises:
        InvalidStatisticsError: another format or version, damaged, or values that cannot be.
    """
    instance(InvalidStatisticsError, "statistics", data, bytes)
    head, _, packed = data.partition(b"\n")
    header = parse_header(head)
    size = part_bytes(header.parts)
    unpacker = zlib.decompressobj()
    try:
        body = unpacker.decompress(packed, size + 1)
    except zlib.error as error:
        raise InvalidStatisticsError(f"damaged statistics: {error}") from error
    if len(body) != size:
        raise InvalidStatisticsError(f"damaged statistics: {len(body)} bytes where {size} were announced")
    if not unpacker.eof or unpacker.unused_data:
        raise InvalidStatisticsError("damaged statistics: cut short, or followed by something else")
    arrays = _split(body, header.parts)
    _check(header, arrays)
    return _restored(header, arrays)


def _check(header: Header, arrays: list[NDArray[Any]]) -> None:
    """Judge values as they came, before any is narrowed or scaled."""
    ids, keys = arrays[4].astype(np.int64) - 1, arrays[5]
    if not all(np.isfinite(counts).all() and (counts >= 0).all() for counts in arrays[:4]):
        raise InvalidStatisticsError("statistics hold counts that are negative or not finite")
    if not np.isfinite(keys).all():
        raise InvalidStatisticsError("a key of the sampled sets is not finite")
    if arrays[0].max() > MOST_LOAD:
        raise InvalidStatisticsError(f"statistics hold a load of {arrays[0].max():g}, more than {MOST_LOAD:g}")
    if ids.max(initial=-1) >= header.experts:
        raise InvalidStatisticsError(f"a sampled expert id is {ids.max()}, the last expert is {header.experts - 1}")
    experts_once(InvalidStatisticsError, ids)
    if (np.diff(keys) < 0).any():
        raise InvalidStatisticsError("the keys of sampled sets must not fall")


def _restored(header: Header, arrays: list[NDArray[Any]]) -> RoutingStatistics:
    experts = header.experts
    statistics = RoutingStatistics(header.layers, experts, header.top_k, header.capacity, header.max_windows)
    statistics.window_tokens, statistics._length = header.window_tokens or None, header.window_length or math.inf
    statistics.tokens = header.tokens
    statistics.load = arrays[0].astype(np.float64)
    row, column = np.triu_indices(experts, k=1)
    pairs = _scaled(arrays[1], header.pair_scale)
    statistics.pairs[:, row, column] = statistics.pairs[:, column, row] = pairs
    diagonal = np.arange(experts)
    statistics.pairs[:, diagonal, diagonal] = statistics.load
    statistics.transitions = _scaled(arrays[2], header.transition_scale).reshape(-1, experts, experts)
    statistics.windows = arrays[3].astype(np.float64)
    sample = statistics.sample
    sample.ids = (arrays[4].astype(np.int32) - 1).astype(np.int16)
    sample.keys = arrays[5].astype(np.float64)
    if not header.gated:
        sample.gates = np.full(sample.ids.shape, np.nan, dtype=np.float16)
    else:
        sample.gates = _unpack_gates(arrays[6], *header.gate_range)
    return statistics


def _pack_gates(gates: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    step = gates - low
    step *= _GATE_STEPS / max(high - low, 1e-12)
    np.rint(step, out=step)
    step += 1
    step[~np.isfinite(gates)] = 0
    return step.astype(np.uint8)


def _unpack_gates(packed: NDArray[np.uint8], low: float, high: float) -> NDArray[np.float16]:
    part = (packed.astype(np.float64) - 1) / _GATE_STEPS
    return np.where(packed > 0, low * (1 - part) + high * part, np.nan).astype(np.float16)


def _half(rows: NDArray[np.float32]) -> tuple[NDArray[np.float16], list[float]]:
    """float16 rows and the power of two that scales each back, so that the largest entries use the range."""
    top = rows.max(axis=1, initial=0) if rows.size else np.zeros(len(rows))
    exponent = np.ceil(np.log2(np.maximum(top, 1e-30) / 32768.0))
    scale = np.where(top > 0, np.exp2(exponent), 1.0)
    return (rows / scale[:, None]).astype("<f2"), [float(value) for value in scale]


def _scaled(rows: NDArray[Any], scale: list[float]) -> NDArray[np.float32]:
    return rows.astype(np.float32) * np.asarray(scale, dtype=np.float32)[:, None]


def _compressed(body: bytes) -> bytes:
    """Planes repeat single bytes, zeros above all: to look for anything longer takes twice as long and packs worse."""
    packer = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return packer.compress(body) + packer.flush()


def _planes(array: NDArray[Any]) -> bytes:
    """All first bytes of the items, then all second ones, and so on."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.itemsize).T.tobytes()


def _split(body: bytes, parts: Parts) -> list[NDArray[Any]]:
    arrays, begin = [], 0
    for kind, shape in parts:
        dtype = np.dtype(kind)
        size = math.prod(shape) * dtype.itemsize
        raw = np.frombuffer(body, dtype=np.uint8, count=size, offset=begin)
        items = np.ascontiguousarray(raw.reshape(dtype.itemsize, -1).T).reshape(-1)
        arrays.append(items.view(dtype).reshape(shape))
        begin += size
    return arrays
