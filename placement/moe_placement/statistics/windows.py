"""The history of loads under merge and subtract: arrays ``[windows, layers, experts]``, oldest first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Loads = NDArray[np.float64]


def paired(windows: Loads) -> tuple[Loads, Loads]:
    """Neighbours joined two by two, from the oldest on: ``[windows // 2, layers, experts]``, and the newest one
    ``[layers, experts]`` where it is left over (zeros else).
    """
    count = len(windows) // 2 * 2
    return windows[:count].reshape(-1, 2, *windows.shape[1:]).sum(axis=1), windows[count:].sum(axis=0)


def first_length(longest: int, first: int = 256) -> int:
    """Tokens of the first windows: ``longest`` halved until that is at most ``first``, so that doubling leads back."""
    while longest > first:
        longest //= 2
    return longest


def aligned(windows: Loads, count: int) -> Loads:
    """Put empty windows before the oldest until there are ``count``: the newest ones belong together."""
    missing = count - len(windows)
    return np.concatenate([np.zeros((missing, *windows.shape[1:])), windows])


def take_out(history: Sequence[Loads], parts: Sequence[Loads]) -> list[Loads]:
    """``history`` without ``parts``: each leaves the window that it is, or else one that holds it.

    Args:
        history: loads ``[layers, experts]`` of each window, newest first, the open one at the head.
        parts: the same of what leaves; one that is in no window has fallen out of the history already.

    Returns:
        What remains, newest first. A window that was one of the parts is gone (the head stays, empty).
    """
    rows, gone = list(history), set()
    for age, part in enumerate(parts):
        slack = 1e-6 * max(1.0, float(part.max(initial=0)))
        left = [row - part for row in rows]
        same = [i for i, rest in enumerate(left) if i not in gone and np.abs(rest).max(initial=0) <= slack]
        holding = [i for i, rest in enumerate(left) if rest.min(initial=0) >= -slack]
        if not part.any() or not holding:
            continue
        # A merge laid windows of one age on each other, so that age is the best guess where none is equal.
        index = same[-1] if same else min(holding, key=lambda i: i != age)
        rows[index] = np.maximum(left[index], 0)
        gone |= {index} & set(same)
    return [row for i, row in enumerate(rows) if i == 0 or i not in gone]
