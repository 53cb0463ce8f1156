"""RoutingStatistics as bytes: a header line, then zlib over little-endian arrays.

58 layers x 256 experts with 4,096 sampled sets per layer stay below 16 MB: pairs as their upper triangle and
transitions in float16 (relative precision 2^-11) scaled per layer, sampled ids in one byte where experts allow.
A poll every few seconds needs only the loads: ``codec.encode_counts`` of ``load``, about 60 KB at that size.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moe_placement.errors import InvalidStatisticsError
from moe_placement.statistics.core import RoutingStatistics

_FORMAT = "moe-routing-statistics/1"
_MAX_BYTES = 1 << 30
"""Bound on what a message may unpack to."""


def encode_statistics(statistics: RoutingStatistics) -> bytes:
    """Pack; the window still open is left out."""
    shape, sample = statistics.shape, statistics.sample
    upper = np.triu_indices(shape.experts, k=1)
    pairs, pair_scale = _half(statistics.pairs[:, upper[0], upper[1]])
    transitions, transition_scale = _half(statistics.transitions.reshape(max(shape.layers - 1, 0), -1))
    gated = bool(len(sample)) and bool(np.isfinite(sample.gates).any())
    arrays = [
        statistics.load.astype("<f8"), pairs, transitions, statistics.windows.astype("<f4"),
        (sample.ids + 1).astype("<u1" if shape.experts < 255 else "<u2"), sample.keys.astype("<f8"),
    ]  # fmt: skip
    if gated:
        arrays.append(sample.gates.astype("<f2"))
    header = {
        "format": _FORMAT, "layers": shape.layers, "experts": shape.experts, "topK": shape.top_k,
        "tokens": statistics.tokens, "capacity": sample.capacity, "samples": len(sample), "gated": gated,
        "windows": len(statistics.windows), "maxWindows": statistics.max_windows,
        "pairScale": pair_scale, "transitionScale": transition_scale,
    }  # fmt: skip
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return json.dumps(header).encode() + b"\n" + zlib.compress(body, 1)


def decode_statistics(data: bytes) -> RoutingStatistics:
    """Inverse of ``encode_statistics``.

    Raises:
        InvalidStatisticsError: another format or version, damaged, or values that cannot be.
    """
    head, _, packed = data.partition(b"\n")
    try:
        header = json.loads(head)
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise InvalidStatisticsError(f"unknown statistics format; this release reads {_FORMAT!r}")
        return _unpack(header, packed)
    except (ValueError, KeyError, TypeError, OverflowError, zlib.error) as error:
        if isinstance(error, InvalidStatisticsError):
            raise
        raise InvalidStatisticsError(f"damaged statistics: {error}") from error


def _unpack(header: dict[str, Any], packed: bytes) -> RoutingStatistics:
    layers, experts, top_k = int(header["layers"]), int(header["experts"]), int(header["topK"])
    samples, windows = int(header["samples"]), int(header["windows"])
    id_type = "<u1" if experts < 255 else "<u2"
    plan: list[tuple[str, tuple[int, ...]]] = [
        ("<f8", (layers, experts)), ("<f2", (layers, experts * (experts - 1) // 2)),
        ("<f2", (max(layers - 1, 0), experts * experts)), ("<f4", (windows, layers, experts)),
        (id_type, (samples, layers, top_k)), ("<f8", (samples,)),
    ]  # fmt: skip
    if header["gated"]:
        plan.append(("<f2", (samples, layers, top_k)))
    size = sum(np.dtype(kind).itemsize * math.prod(shape) for kind, shape in plan)
    if min(layers, experts, top_k, samples + 1, windows + 1) < 1 or size > _MAX_BYTES:
        raise InvalidStatisticsError(f"statistics of {size} bytes announced; at most {_MAX_BYTES} are read")
    body = zlib.decompressobj().decompress(packed, size + 1)
    if len(body) != size:
        raise InvalidStatisticsError(f"damaged statistics: {len(body)} bytes where {size} were announced")
    statistics = RoutingStatistics(layers, experts, top_k, int(header["capacity"]), int(header["maxWindows"]))
    arrays = _split(body, plan)
    statistics.tokens = float(header["tokens"])
    statistics.load = arrays[0].astype(np.float64)
    _restore_pairs(statistics, arrays[1].astype(np.float32), header["pairScale"])
    scale = np.asarray(header["transitionScale"], dtype=np.float32).reshape(-1, 1)
    statistics.transitions = (arrays[2].astype(np.float32) * scale).reshape(-1, experts, experts)
    statistics.windows = arrays[3].astype(np.float64)
    statistics.sample.ids = (arrays[4].astype(np.int32) - 1).astype(np.int16)
    statistics.sample.keys = arrays[5].astype(np.float64)
    shape = statistics.sample.ids.shape
    statistics.sample.gates = (
        arrays[6].astype(np.float16) if header["gated"] else np.full(shape, np.nan, dtype=np.float16)
    )
    _check(statistics)
    return statistics


def _restore_pairs(statistics: RoutingStatistics, triangle: NDArray[np.float32], scale: Sequence[float]) -> None:
    experts = statistics.shape.experts
    row, column = np.triu_indices(experts, k=1)
    values = triangle * np.asarray(scale, dtype=np.float32)[:, None]
    statistics.pairs[:, row, column] = values
    statistics.pairs[:, column, row] = values
    diagonal = np.arange(experts)
    statistics.pairs[:, diagonal, diagonal] = statistics.load


def _check(statistics: RoutingStatistics) -> None:
    counts: list[NDArray[Any]] = [
        statistics.load,
        statistics.pairs,
        statistics.transitions,
        statistics.windows,
        statistics.sample.keys,
    ]
    if not all(np.isfinite(array).all() and (array >= 0).all() for array in counts) or not statistics.tokens >= 0:
        raise InvalidStatisticsError("statistics hold negative or non-finite counts")
    if statistics.sample.ids.size and statistics.sample.ids.max() >= statistics.shape.experts:
        raise InvalidStatisticsError(f"a sampled expert id is above {statistics.shape.experts - 1}")


def _half(rows: NDArray[np.float32]) -> tuple[NDArray[np.float16], list[float]]:
    """float16 rows and the power of two that scales each back, so that the largest entries use the range."""
    top = rows.max(axis=1, initial=0) if rows.size else np.zeros(len(rows))
    exponent = np.ceil(np.log2(np.maximum(top, 1e-30) / 32768.0))
    scale = np.where(top > 0, np.exp2(exponent), 1.0)
    return (rows / scale[:, None]).astype("<f2"), [float(value) for value in scale]


def _split(body: bytes, plan: list[tuple[str, tuple[int, ...]]]) -> list[NDArray[Any]]:
    arrays, begin = [], 0
    for kind, shape in plan:
        count = math.prod(shape)
        arrays.append(np.frombuffer(body, dtype=kind, count=count, offset=begin).reshape(shape))
        begin += count * np.dtype(kind).itemsize
    return arrays
