"""The highest rate of arrivals that a server keeps up with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from benchmarks.serving.figures import WORTHY

Measure = Callable[[float], Awaitable[float]]
"""Offers requests at a rate, and says which share of them was completed."""

_STEP = 1.4
_FARTHEST = 50.0


async def find_saturation(measure: Measure, guess: float, precision: float = 0.05) -> float:
    """The highest rate tried at which at least ``WORTHY`` of what is offered completes.

    From ``guess`` up or down until one rate is kept up with and one is not; then the interval between the two is halved
    until its ends are within ``precision`` of each other.

    Raises:
        ValueError: no such rate within a factor of 50 of the guess.
    """
    kept, lost = 0.0, 0.0
    rate = guess
    while not (kept and lost):
        if not guess / _FARTHEST < rate < guess * _FARTHEST:
            raise ValueError(f"no rate near {guess:.2f}/s at which the server begins to fall behind; guess another")
        if await measure(rate) >= WORTHY:
            kept, rate = rate, rate * _STEP
        else:
            lost, rate = rate, rate / _STEP
    while lost / kept > 1 + precision:
        rate = (kept * lost) ** 0.5
        if await measure(rate) >= WORTHY:
            kept = rate
        else:
            lost = rate
    return kept
