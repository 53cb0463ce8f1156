"""Figures of the placement in force, as the data plane counted them. Pure."""

from __future__ import annotations

import math

from moe_contract.report import DirectoryReport, EpochFigures

STEP = 0.02
"""A figure is told anew when it has moved by this: with traffic it moves all the time, and each status is a write."""
LEAST_PAIRS = 25
"""So many pairs per layer and shard a figure needs: of fewer, chance makes an even load look a fifth uneven."""


def measured(report: DirectoryReport) -> EpochFigures | None:
    """What was counted of the routing table in force; None until that is enough to tell figures."""
    figures, model = report.figures, report.model
    if figures is None or model is None:
        return None
    return figures if figures.pairs >= LEAST_PAIRS * model.layers * len(report.shards) else None


def steadied(before: str | None, now: float | None) -> str | None:
    """``now`` in two digits, or what was told ``before`` where it is hardly another."""
    if now is None:
        return before
    if before is not None and abs(_number(before) - now) < STEP:
        return before
    return f"{now:.2f}"


def _number(told: str) -> float:
    """The number in a status, which anybody may have written; NaN, which is near nothing, where it is none."""
    try:
        return float(told)
    except ValueError:
        return math.nan
