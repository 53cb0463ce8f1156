"""The assignment problem: which senders and receivers are paired, so that all pairs together are worth most.

Shortest augmenting paths, with prices that prove each step: R. Jonker and A. Volgenant, "A shortest augmenting path
algorithm for dense and sparse linear assignment problems", Computing 38 (1987), for rectangular matrices as in
D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Transactions on Aerospace and Electronic
Systems 52 (2016). SciPy's ``linear_sum_assignment`` is the same in C++; nothing else here needs SciPy, and a process
that imports it takes 20 MB more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_NONE = -1


def best_assignment(value: NDArray[np.float64]) -> list[tuple[int, int]]:
    """As many pairs (row, column) as the shorter side is long, no row and no column in two of them, of the largest sum
    of ``value``; in ascending order.

    Args:
        value: ``[rows, columns]``, finite, of any sign.

    Raises:
        ValueError: a value that is infinite or no number.
    """
    if not np.isfinite(value).all():
        raise ValueError("the values of an assignment must be finite")
    rows, columns = value.shape
    if rows > columns:
        return sorted((row, column) for column, row in best_assignment(value.T))
    matching = _Matching(-np.ascontiguousarray(value, dtype=np.float64))
    for row in range(rows):
        matching.add(row)
    return list(enumerate(matching.column_of.tolist()))


class _Matching:
    """The rows added so far, each with a column, at the least cost that they can have together.

    It is the least since cost[row, column] >= price_of_row[row] + price_of_column[column] for all pairs, with equality
    for those that are matched, while free columns have the price 0 and no column has a higher one.

    Attributes:
        column_of: ``[rows]``, -1 for a row that was not added.
    """

    def __init__(self, cost: NDArray[np.float64]) -> None:
        """``cost``: ``[rows, columns]``, of no more rows than columns."""
        rows, columns = cost.shape
        self._cost = cost
        self.column_of, self._row_of = np.full(rows, _NONE), np.full(columns, _NONE)
        self._price_of_row, self._price_of_column = np.zeros(rows), np.zeros(columns)

    def add(self, row: int) -> None:
        """Dijkstra's search for the nearest free column: from a row to any column at what that costs above the prices,
        from a matched column to its row for nothing. All columns that are equally near are settled in one step: of the
        values of a round many are the same.
        """
        columns = np.arange(len(self._row_of))
        distance, row_before = np.full(len(columns), np.inf), np.full(len(columns), _NONE)
        free, settled = self._row_of == _NONE, np.zeros(len(columns), dtype=bool)
        rows, covered = np.array([row]), 0.0
        while True:
            beyond = self._cost[rows] - self._price_of_row[rows, None]
            nearest = beyond.argmin(axis=0)
            onward = beyond[nearest, columns] - self._price_of_column + covered
            onward[settled] = np.inf
            row_before = np.where(onward < distance, rows[nearest], row_before)
            distance = np.minimum(distance, onward)
            ahead = np.where(settled, np.inf, distance)
            covered = float(ahead.min())
            reached = ahead == covered
            ends = np.flatnonzero(reached & free)
            if len(ends):
                break
            settled |= reached
            rows = self._row_of[reached]
        saved = covered - distance[settled]
        self._price_of_row[row] += covered
        self._price_of_row[self._row_of[settled]] += saved
        self._price_of_column[settled] -= saved
        self._augment(int(ends[0]), row_before, row)

    def _augment(self, column: int, row_before: NDArray[np.int64], first: int) -> None:
        """Along the path that ends at ``column`` each row gets the column after it for the one before it."""
        row = _NONE
        while row != first:
            row = int(row_before[column])
            self._row_of[column] = row
            column, self.column_of[row] = int(self.column_of[row]), column
