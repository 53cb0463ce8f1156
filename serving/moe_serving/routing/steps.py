"""Steps of the engine, counted: how many rows they had, and how long tokens followed one another in them. Pure.

How long a step takes depends on its rows, so tokens are counted by the rows of their step: what two placements are
compared by is then not which of them had more to do.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

DIGITS = 5
"""Binary ones that rows and microseconds are counted to: exactly up to 31, to 6% beyond, as HdrHistogram does it."""
MOST_ROWS, MOST_SECONDS = 1 << 16, 600.0
"""Counted as so much where it is more: so the cells are bounded."""
PAUSE_SECONDS = 2.0
"""A longer time between the ends of two steps is one without traffic."""


def cell(value: int) -> int:
    """``value`` to ``DIGITS`` binary digits, rounded down."""
    beyond = max(0, value.bit_length() - DIGITS)
    return value >> beyond << beyond


def width(of: int) -> int:
    """How many values ``cell`` makes this one of."""
    return 1 << max(0, of.bit_length() - DIGITS)


@dataclass(slots=True)
class StepCounts:
    """Attributes:
    steps: that came to their end.
    rows: of them all.
    tokens: that came right after another one of the same answer, by the rows of their step and the microseconds between
        the ends of the two steps, each as ``cell`` has it.
    seconds: in which there was traffic, of the clock on the wall.
    context: tokens that the answers of ``tokens`` and their prompts had by then, summed over these.
    """

    steps: int = 0
    rows: int = 0
    tokens: Counter[tuple[int, int]] = field(default_factory=Counter)
    seconds: float = 0.0
    context: int = 0

    def __bool__(self) -> bool:
        return self.steps > 0

    def note(self, rows: int, tokens: int, seconds: float, context: int = 0, since_last: float = 0.0) -> None:
        """A step of ``rows`` ended ``seconds`` after the one before, of whose answers ``tokens`` got another one.

        Args:
            context: tokens of these answers and their prompts.
            since_last: seconds since any step ended.
        """
        self.steps += 1
        self.rows += rows
        self.seconds += min(since_last, PAUSE_SECONDS)
        if tokens:
            self.context += context
            microseconds = int(min(seconds, MOST_SECONDS) * 1e6)
            self.tokens[cell(min(rows, MOST_ROWS)), cell(microseconds)] += tokens

    def add(self, other: StepCounts) -> None:
        self.steps += other.steps
        self.rows += other.rows
        self.tokens.update(other.tokens)
        self.seconds += other.seconds
        self.context += other.context
