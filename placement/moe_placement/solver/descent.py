"""Few experts: single changes to a placement as long as modelled seconds fall.

The search of ``split`` weighs averages over many tokens; where one expert is much of a shard's load, the busiest link
and the fullest shard are what counts, and a replay is cheap.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from moe_placement.solver.constants import DESCENT, KICKS, MOST_DESCENT

Bools = NDArray[np.bool_]
Change = tuple[tuple[int, int, bool], ...]
"""(expert, shard, whether it is there afterwards) of each copy that comes or goes."""


def descend(
    starts: Sequence[Bools], seconds_of: Callable[[Bools], float], fits: Callable[[Bools], bool],
    slots: NDArray[np.int64], seed: int,
) -> Bools | None:  # fmt: skip
    """The best that single changes make of any of ``starts`` (bool ``[experts, shards]``), and then of the best with a
    few random changes (iterated local search); None if no start fits.
    """
    random = np.random.default_rng(seed)
    most = min(MOST_DESCENT, DESCENT // len(starts[0]))
    known: dict[bytes, float] = {}

    def looked_up(held: Bools) -> float:
        key = held.tobytes()
        if key not in known:
            if len(known) >= most:
                return np.inf
            known[key] = seconds_of(held) if fits(held) else np.inf
        return known[key]

    best: Bools | None = None
    for start in sorted(starts, key=looked_up):
        held = _descended(start.copy(), looked_up, slots, random)
        if looked_up(held) < (np.inf if best is None else looked_up(best)):
            best = held
    for _ in range(most):
        if len(known) >= most or best is None:
            break
        held = best.copy()
        for _ in range(KICKS):
            changes = list(_changes(held, slots))
            if changes:
                _apply(held, changes[random.integers(len(changes))])
        held = _descended(held, looked_up, slots, random)
        if looked_up(held) < looked_up(best):
            best = held
    return best


def _descended(
    held: Bools, seconds_of: Callable[[Bools], float], slots: NDArray[np.int64], random: np.random.Generator
) -> Bools:
    """``held``, changed in place as long as a single change, tried in random order, makes it faster."""
    best, improved = seconds_of(held), True
    while improved:
        improved = False
        changes = list(_changes(held, slots))
        for index in random.permutation(len(changes)).tolist():
            _apply(held, changes[index])
            seconds = seconds_of(held)
            if seconds < (1 - 1e-9) * best:
                best, improved = seconds, True
                break
            _undo(held, changes[index])
    return held


def _changes(held: Bools, slots: NDArray[np.int64]) -> Iterator[Change]:
    """Copies that go, come, move, take the place of another, or change places."""
    shards = held.shape[1]
    used, copies = held.sum(axis=0), held.sum(axis=1)
    for g in range(shards):
        for e in np.flatnonzero(held[:, g]).tolist():
            if copies[e] > 1:
                yield ((e, g, False),)
            for h in range(shards):
                if held[e, h]:
                    continue
                if used[h] < slots[h]:
                    yield ((e, h, True),)
                    yield ((e, g, False), (e, h, True))
                for f in np.flatnonzero(held[:, h]).tolist():
                    if copies[f] > 1:
                        yield ((f, h, False), (e, h, True))
                        yield ((f, h, False), (e, g, False), (e, h, True))
                    if g < h and not held[f, g]:
                        yield ((e, g, False), (f, h, False), (e, h, True), (f, g, True))


def _apply(held: Bools, change: Change) -> None:
    for expert, shard, there in change:
        held[expert, shard] = there


def _undo(held: Bools, change: Change) -> None:
    for expert, shard, there in change:
        held[expert, shard] = not there
