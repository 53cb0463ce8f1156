"""Figures of a placement in use, from the tokens that were routed. Pure."""

from __future__ import annotations

import numpy as np

from moe_placement import InvalidPlacementError
from moe_placement.wire.codec import decode_counts, decode_placement
from moe_placement.wire.report import DirectoryReport

STEP = 0.02
"""A figure is told anew when it has moved by this: with traffic it moves all the time, and each status is a write."""


def balance(report: DirectoryReport) -> float | None:
    """Mean load of a shard divided by that of the busiest, per layer, averaged over layers with load; 1 is perfect.

    The load of an expert counts in equal parts for the shards that hold it. None before the first token.
    """
    if report.placement is None or report.traffic.load is None:
        return None
    try:
        placement = decode_placement(report.placement)
        load = decode_counts(report.traffic.load, placement.layers, placement.experts)
    except (InvalidPlacementError, ValueError):
        return None
    used = placement.held[:, :, np.asarray(placement.shard_slots) > 0]
    by_shard = np.einsum("le,les->ls", load / used.sum(axis=2), used)
    busiest = by_shard.max(axis=1)
    counted = busiest > 0
    return float((by_shard.mean(axis=1)[counted] / busiest[counted]).mean()) if counted.any() else None


def fan_out(report: DirectoryReport) -> float | None:
    """Shards that a token visits per layer, averaged; None before the first token."""
    traffic = report.traffic
    return traffic.visits / traffic.tokens if traffic.tokens else None


def steadied(before: str | None, now: float | None) -> str | None:
    """``now`` in two digits, or what was told ``before`` where it is hardly another."""
    if now is None:
        return before
    if before is not None and abs(float(before) - now) < STEP:
        return before
    return f"{now:.2f}"
