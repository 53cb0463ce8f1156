"""Arrays as compact text: a placement of 58 x 288 slots as JSON is 75 KB and doubles in every GET, so it is packed."""

from __future__ import annotations

import base64
import binascii
import json
import zlib

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import MOST_EXPERTS, instance, integers, whole, wholes
from moe_placement.errors import InvalidPlacementError, InvalidStatisticsError
from moe_placement.placement import Placement

_FORMAT = "p1"
_MAX_SLOTS = 4_000_000
"""Bound on layers x slots when decoding: an input of a few bytes must not unpack to gigabytes."""
_MAX_HELD = 1 << 28
"""Bound on layers x experts x shards when decoding, which is what a placement may come to keep in memory."""
_MAX_HEADER = 65536


def encode_placement(placement: Placement) -> str:
    """``p1.<base64(zlib(header line, then little-endian int16 slots))>``."""
    instance(InvalidPlacementError, "placement", placement, Placement)
    header = {"layers": placement.layers, "shardSlots": placement.shard_slots, "experts": placement.experts}
    body = json.dumps(header).encode() + b"\n" + placement.slots.astype("<i2").tobytes()
    return f"{_FORMAT}.{base64.b64encode(zlib.compress(body, 9)).decode()}"


def decode_placement(text: str, most_slots: int = _MAX_SLOTS) -> Placement:
    """Inverse of ``encode_placement``, of at most ``most_slots`` layers x slots.

    Raises:
        InvalidPlacementError: not this format, damaged, too large, or not a valid placement.
    """
    instance(InvalidPlacementError, "placement", text, str)
    version, _, payload = text.partition(".")
    if version != _FORMAT:
        raise InvalidPlacementError(f"unknown placement format {version[:16]!r}; this release reads {_FORMAT!r}")
    try:
        unpacker = zlib.decompressobj()
        body = unpacker.decompress(base64.b64decode(payload, validate=True), 2 * most_slots + _MAX_HEADER)
        head, _, raw = body.partition(b"\n")
        if len(head) > _MAX_HEADER:
            raise ValueError("its header has no end")
        header = json.loads(head)
        layers = whole(InvalidPlacementError, "layers", header["layers"])
        experts = whole(InvalidPlacementError, "experts", header["experts"], 1, MOST_EXPERTS)
        shard_slots = wholes(InvalidPlacementError, "shardSlots", header["shardSlots"])
        if experts > sum(shard_slots) or layers * experts * len(shard_slots) > _MAX_HELD:
            raise ValueError(
                f"{layers} layers of {experts} experts on {len(shard_slots)} shards, {shard_slots[:8]} slots"
            )
        if layers * sum(shard_slots) > most_slots:
            raise ValueError(f"{layers} layers of {sum(shard_slots)} slots; at most {most_slots} slots are read")
        slots = np.frombuffer(raw, dtype="<i2").astype(np.int32).reshape(layers, sum(shard_slots))
        return Placement.of(slots, shard_slots, experts)
    except (binascii.Error, zlib.error, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidPlacementError(f"damaged placement: {error}") from error


def unpacks_to_more(text: str, size: int) -> bool:
    """Whether a placement's text unpacks to more than ``size`` bytes, two per slot: a short text may. False where it is
    damaged, as reading it says at once."""
    try:
        packed = base64.b64decode(text.partition(".")[2], validate=True)
        return len(zlib.decompressobj().decompress(packed, size + 1)) > size
    except (ValueError, zlib.error):
        return False


def encode_counts(counts: NDArray[np.int64]) -> str:
    """Integer counts ``[rows, columns]`` as base64(zlib(little-endian uint32)), shape sent beside it.

    Raises:
        InvalidStatisticsError: other than integers, or a negative one.
    """
    checked = integers(InvalidStatisticsError, "counts", counts, "[rows, columns]")
    if checked.min(initial=0) < 0:
        raise InvalidStatisticsError(f"counts hold {checked.min()}; none may be negative")
    return base64.b64encode(zlib.compress(np.minimum(checked, 2**32 - 1).astype("<u4").tobytes(), 6)).decode()


def decode_counts(text: str, rows: int, columns: int) -> NDArray[np.int64]:
    """Inverse of ``encode_counts``, int64 ``[rows, columns]``.

    Raises:
        InvalidStatisticsError: damaged text or another shape.
    """
    instance(InvalidStatisticsError, "counts", text, str)
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(text, validate=True), 4 * rows * columns + 1)
        return np.frombuffer(raw, dtype="<u4").astype(np.int64).reshape(rows, columns)
    except (ValueError, zlib.error) as error:  # binascii's is a ValueError
        raise InvalidStatisticsError(f"damaged counts of {rows} x {columns}: {error}") from error
