"""The header line of the wire form: parsed, and every figure of it checked before anything is unpacked by it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from moe_placement.checks import MOST_EXPERTS, floats, real, whole
from moe_placement.errors import InvalidStatisticsError

FORMAT = "moe-routing-statistics/4"
_MAX_BYTES = 1 << 30
"""Bound on what a message may unpack to."""
_MAX_SCALE = 1e30
"""A half float times this is still a float."""

Parts = list[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True, slots=True)
class Header:
    """Figures that the arrays are unpacked by."""

    layers: int
    experts: int
    top_k: int
    tokens: float
    capacity: int
    samples: int
    gated: bool
    gate_range: tuple[float, float]
    windows: int
    max_windows: int
    window_tokens: int
    window_length: int
    pair_scale: list[float]
    transition_scale: list[float]

    @property
    def parts(self) -> Parts:
        """dtype and shape of load, pairs, transitions, windows, ids + 1, keys and, where known, gates."""
        experts, sets = self.experts, (self.samples, self.layers, self.top_k)
        parts: Parts = [
            ("<f8", (self.layers, experts)), ("<f2", (self.layers, experts * (experts - 1) // 2)),
            ("<f2", (self.layers - 1, experts * experts)), ("<f4", (self.windows, self.layers, experts)),
            ("<u1" if experts < 255 else "<u2", sets), ("<f8", (self.samples,)),
        ]  # fmt: skip
        return [*parts, ("<u1", sets)] if self.gated else parts


def parse_header(line: bytes) -> Header:
    """Read the first line of a message.

    Raises:
        InvalidStatisticsError: another format or version, or a field that is missing or cannot be.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidStatisticsError(f"damaged statistics: {error}") from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if found != FORMAT:
        raise InvalidStatisticsError(f"unknown statistics format {str(found)[:40]}; this release reads {FORMAT}")
    layers, capacity, limit = _whole(fields, "layers", 1), _whole(fields, "capacity"), _whole(fields, "maxWindows", 1)
    experts = _whole(fields, "experts", 1, MOST_EXPERTS)
    tokens = real(InvalidStatisticsError, "statistics: tokens", fields.get("tokens"), most=1e300)
    gated = fields.get("gated") is True
    low, high = _floats(fields, "gateRange", 2, -65504, 65504) if gated else [0.0, 0.0]
    longest = _whole(fields, "windowTokens")
    length = _whole(fields, "windowLength", min(longest, 1), 2 * longest)  # a merge may have joined one time too many
    header = Header(
        layers, experts, _whole(fields, "topK", 1, experts), tokens, capacity,
        _whole(fields, "samples", 0, capacity), gated, (low, high), _whole(fields, "windows", 0, limit), limit,
        longest, length,
        _floats(fields, "pairScale", layers, 0, _MAX_SCALE),
        _floats(fields, "transitionScale", layers - 1, 0, _MAX_SCALE),
    )  # fmt: skip
    if (size := part_bytes(header.parts)) > _MAX_BYTES:
        raise InvalidStatisticsError(f"statistics of {size} bytes announced; at most {_MAX_BYTES} are read")
    return header


def part_bytes(parts: Parts) -> int:
    """Bytes of all parts together."""
    return sum(int(kind[-1]) * math.prod(shape) for kind, shape in parts)


def _whole(fields: dict[str, Any], name: str, least: int = 0, most: int = 2**31 - 1) -> int:
    return whole(InvalidStatisticsError, f"statistics: {name}", fields.get(name), least, most)


def _floats(fields: dict[str, Any], name: str, count: int, least: float, most: float) -> list[float]:
    """A list of exactly ``count`` numbers."""
    found: Any = fields.get(name)
    values = floats(InvalidStatisticsError, f"statistics: {name}", found, f"[{count}]", least, most)
    if len(values) != count:
        raise InvalidStatisticsError(f"statistics: {name} must be {count} numbers, got {len(values)}")
    return [float(value) for value in values]
