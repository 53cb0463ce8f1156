"""How long tokens took, and how many rows a step had, over all attention replicas: quartiles from counted cells."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from moe_contract.report import MOST_PACES, Pace
from moe_serving.routing.steps import StepCounts, width

_FEWEST = 0.25
"""A cell of fewer tokens, after some halvings, is dropped."""


class Paces:
    """Counts of one routing table. They can be halved: they follow the traffic, as the other figures do."""

    def __init__(self) -> None:
        self._steps = self._rows = self._paced = self._context = 0.0
        self._tokens: dict[tuple[int, int], float] = {}

    def add(self, steps: StepCounts) -> None:
        self._steps += steps.steps
        self._rows += steps.rows
        self._paced += steps.tokens.total()
        self._context += steps.context
        for key, count in steps.tokens.items():
            self._tokens[key] = self._tokens.get(key, 0.0) + count

    def halve(self) -> None:
        self._steps /= 2
        self._rows /= 2
        self._paced /= 2
        self._context /= 2
        self._tokens = {key: count / 2 for key, count in self._tokens.items() if count / 2 >= _FEWEST}

    @property
    def rows_per_step(self) -> float:
        """Rows of a step on average; 0 before there was one."""
        return self._rows / self._steps if self._steps else 0.0

    @property
    def context(self) -> float:
        """Tokens of an answer and its prompt, on average over the tokens counted; 0 before there were any."""
        return self._context / self._paced if self._paced else 0.0

    def told(self) -> tuple[Pace, ...]:
        """Quartiles by the rows of a step, for those sizes in which most tokens came; by ascending rows."""
        cells = sorted((rows, microseconds, count) for (rows, microseconds), count in self._tokens.items())
        by_rows = [
            (rows, [(at, count) for _, at, count in group]) for rows, group in groupby(cells, lambda cell: cell[0])
        ]
        by_rows.sort(key=lambda each: sum(count for _, count in each[1]), reverse=True)
        return tuple(sorted((_pace(*each) for each in by_rows[:MOST_PACES]), key=lambda pace: pace.rows))


def _pace(rows: int, cells: Sequence[tuple[int, float]]) -> Pace:
    total = sum(count for _, count in cells)
    lower, median, upper = (_quantile(cells, part * total) / 1e6 for part in (0.25, 0.5, 0.75))
    return Pace(rows=max(rows, 1), tokens=round(total), lower=lower, median=median, upper=upper)


def _quantile(cells: Sequence[tuple[int, float]], rank: float) -> int:
    """Microseconds below which there are ``rank`` tokens, as if they were even inside each cell."""
    for at, count in cells:
        if rank <= count:
            return round(at + width(at) * rank / count)
        rank -= count
    return cells[-1][0]
