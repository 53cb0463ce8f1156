"""Figure 6: one operator with many deployments in mode Auto: its memory, its looks, and its signs of life."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.brain.report import Row
from benchmarks.operator_rebalance import measure
from benchmarks.rebalancing.sizes import Sizes

FIGURE = 6


def rows(sizes: Sizes) -> list[Row]:
    """Those of ``benchmarks.operator_rebalance``."""
    measured = measure(sizes.deployments, sizes.operator_interval_s, sizes.operator_s)
    return [replace(row, figure=FIGURE) for row in measured]
