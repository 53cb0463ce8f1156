"""Contestants in turn, round after round: what disturbs the machine for a while disturbs all alike."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from benchmarks.contest.runs import Run, Tokens

FIRST_ID = 10
"""Tokens below it may be special ones."""


def orders(names: Sequence[str], rounds: int) -> Iterator[tuple[str, ...]]:
    """Forth and back in turn, so that nobody runs always behind the same one."""
    for number in range(rounds):
        yield tuple(names) if number % 2 == 0 else tuple(reversed(names))


def interleaved(names: Sequence[str], rounds: int, run: Callable[[str], Run]) -> dict[str, list[Run]]:
    """All runs of each contestant, by rounds."""
    runs: dict[str, list[Run]] = {name: [] for name in names}
    for order in orders(names, rounds):
        for name in order:
            runs[name].append(run(name))
    return runs


def prompts(batch: int, length: int, vocabulary: int) -> tuple[Tokens, ...]:
    """Random ones of one length, the same each time; a larger batch begins with those of a smaller one."""
    draw = random.Random(0)
    return tuple(tuple(draw.randrange(FIRST_ID, vocabulary) for _ in range(length)) for _ in range(batch))
