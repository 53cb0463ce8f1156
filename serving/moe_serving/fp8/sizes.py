"""What packed matrices take. No torch here: the directory's process has none."""

from __future__ import annotations

_SCALE_BYTES = 4


def packed_height(rows: int, columns: int) -> int:
    """Rows of a packed matrix: those of its numbers, and behind them as many as the scales take, one for each."""
    return rows + -(-_SCALE_BYTES * rows // columns)


def packed_expert_bytes(hidden: int, intermediate: int) -> int:
    """Of ``gate_up`` ``[2I, H]`` and ``down`` ``[H, I]``."""
    return packed_height(2 * intermediate, hidden) * hidden + packed_height(hidden, intermediate) * intermediate
