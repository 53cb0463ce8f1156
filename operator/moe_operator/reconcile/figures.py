"""Figures of a placement in use, from the tokens that were routed. Pure."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from moe_contract.report import DirectoryReport, Traffic
from moe_placement import InvalidStatisticsError, Placement
from moe_placement.encoding import decode_counts

STEP = 0.02
"""A figure is told anew when it has moved by this: with traffic it moves all the time, and each status is a write."""


def balance(placement: Placement | None, traffic: Traffic) -> float | None:
    """Mean load of a shard divided by that of the busiest, per layer, averaged over layers with load; 1 is perfect.

    The load of an expert counts in equal parts for the shards that hold it. None before the first token.
    """
    if placement is None or traffic.load is None:
        return None
    try:
        load = decode_counts(traffic.load, placement.layers, placement.experts)
    except InvalidStatisticsError:
        return None
    by_shard = _load_of_shards(placement, load / placement.copies)[:, np.asarray(placement.shard_slots) > 0]
    busiest = by_shard.max(axis=1)
    counted = busiest > 0
    return float((by_shard.mean(axis=1)[counted] / busiest[counted]).mean()) if counted.any() else None


def _load_of_shards(placement: Placement, of_copy: NDArray[np.float64]) -> NDArray[np.float64]:
    """float64 ``[layers, shards]`` from the load of each copy, ``[layers, experts]``."""
    layer, expert, shard = placement.holders
    where, size = layer * placement.shards + shard, placement.layers * placement.shards
    summed = np.bincount(where, of_copy[layer, expert], size)
    return np.asarray(summed, dtype=np.float64).reshape(placement.layers, placement.shards)


def fan_out(report: DirectoryReport) -> float | None:
    """Shards that a token visits per layer, averaged; None before the first token."""
    traffic = report.traffic
    return traffic.visits / traffic.tokens if traffic.tokens else None


def steadied(before: str | None, now: float | None) -> str | None:
    """``now`` in two digits, or what was told ``before`` where it is hardly another."""
    if now is None:
        return before
    if before is not None and abs(_number(before) - now) < STEP:
        return before
    return f"{now:.2f}"


def _number(told: str) -> float:
    """What a status says, which anybody may have written; NaN, which is near nothing, where it is no number."""
    try:
        return float(told)
    except ValueError:
        return math.nan
