"""Tokens by the time in which they came. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Tick:
    """Tokens of one answer that came together.

    Attributes:
        at: ``time.monotonic()``.
        gap: seconds since those before, for each of them; None of the first ones of an answer.
        tokens: how many.
    """

    at: float
    gap: float | None
    tokens: int


@dataclass(frozen=True, slots=True)
class Span:
    """From ``begin`` to ``end``, ``time.monotonic()``; the end is not part of it.

    Attributes:
        cpu: seconds of processor time that the whole data plane took in it.
    """

    begin: float
    end: float
    cpu: float = 0.0

    @property
    def seconds(self) -> float:
        return self.end - self.begin


def tokens_a_second(ticks: Sequence[Tick], spans: Sequence[Span]) -> list[float]:
    """Of each span; ``ticks`` in order of time."""
    at = np.array([tick.at for tick in ticks])
    before = np.concatenate([[0], np.cumsum([tick.tokens for tick in ticks])])
    return [
        float(before[np.searchsorted(at, span.end)] - before[np.searchsorted(at, span.begin)]) / span.seconds
        for span in spans
    ]


def of_those_beside(during: Sequence[float], without: Sequence[float]) -> list[float]:
    """Each of ``during`` by the mean of the two of ``without`` around it; where nothing came in those, it is left out.

    Args:
        without: one more than ``during``.
    """
    beside = [(before + after) / 2 for before, after in pairwise(without)]
    return [each / other for each, other in zip(during, beside, strict=True) if other]


def tokens_a_cpu_second(ticks: Sequence[Tick], spans: Sequence[Span]) -> float:
    """Of all spans together: what other work on the machine changes little."""
    tokens = sum(speed * span.seconds for speed, span in zip(tokens_a_second(ticks, spans), spans, strict=True))
    return tokens / sum(span.cpu for span in spans)


def gaps_in(ticks: Sequence[Tick], spans: Sequence[Span]) -> NDArray[np.float64]:
    """Seconds between tokens of one answer, of those that ended in one of the spans."""
    at = np.array([tick.at for tick in ticks])
    found = [
        tick.gap
        for span in spans
        for tick in ticks[np.searchsorted(at, span.begin) : np.searchsorted(at, span.end)]
        if tick.gap is not None
    ]
    return np.array(found, dtype=np.float64)
