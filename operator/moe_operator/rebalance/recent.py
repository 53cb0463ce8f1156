"""What came lately, out of statistics of all traffic in which the older counts less. Pure.

A plan must be judged on traffic that it was not made from. The directory tells one statistics, of all that came, so a
``Mark`` is kept of each look at it: the loads and the keys of the sampled tokens. In a later look, tokens whose keys a
mark has came before it, all others after it. Decay makes every weight the same factor smaller, and adds the same number
to the logarithm of every key: that number, found where the keys of both agree, tells the factor too, so loads can be
subtracted. (Efraimidis and Spirakis, 2006, is where the keys come from; ``moe_placement.statistics.reservoir``.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import dropwhile, pairwise, starmap

import numpy as np
from numpy.typing import NDArray

from moe_placement.statistics import RoutingStatistics

_PROBES = 16
_AGREE = 3
"""So many of the smallest keys of both must agree: that three do by chance happens once in 10^5 looks."""
_SAME = 1e-9
"""By which the shifts of two keys may differ: thousands of decays add up to 1e-11."""
_LOST = 0.02
"""Part of the loads of a mark that may be missing later; where more is, the statistics are others."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """What statistics held at a moment: 150 KB for 58 layers x 256 experts.

    Attributes:
        at: seconds of a clock that nobody sets.
        rows: tokens counted, as they weighed then.
        load: float64 ``[layers, experts]``.
        keys: float64 ``[sampled]``, ascending.
    """

    at: float
    rows: float
    load: Floats
    keys: Floats

    @classmethod
    def of(cls, statistics: RoutingStatistics, at: float) -> Mark:
        return cls(at, statistics.tokens, statistics.load, statistics.sample.keys)


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Traffic between two moments.

    Attributes:
        seconds: between them; infinite of the first part, which has no beginning.
        rows: tokens that came in between, each counted as one.
        statistics: loads and sampled sets, in which the older counts less; not which experts are chosen together.
    """

    seconds: float
    rows: float
    statistics: RoutingStatistics

    @property
    def sampled(self) -> int:
        """How many whole expert sets are known."""
        return len(self.statistics.sample)


@dataclass(frozen=True, slots=True, eq=False)
class _Before:
    """A mark as later statistics see it. ``weight``: what is left of each thing it counted. ``held``: bool
    ``[sampled]``, the sampled tokens it had."""

    mark: Mark
    weight: float
    held: NDArray[np.bool_]


def since(statistics: RoutingStatistics, marks: Sequence[Mark], now: float) -> tuple[Part, ...] | None:
    """The parts of the traffic: what came before the first mark, between each and the next, and after the last one.

    Args:
        statistics: of all traffic until ``now``, in seconds of the marks' clock.
        marks: of earlier looks, oldest first.

    Returns:
        One part more than marks, but for the oldest of which nothing is left; None where the others are not of the same
        statistics, which began anew or lost much.
    """
    before = list(dropwhile(lambda each: each is None, (_seen_from(statistics, mark) for mark in marks)))
    ages = [each for each in before if each is not None]
    if not ages or len(ages) < len(before):
        return None
    sampled = len(statistics.sample)
    nothing = _Before(Mark(-math.inf, 0.0, np.zeros_like(statistics.load), np.zeros(0)), 1.0, np.zeros(sampled, bool))
    everything = _Before(Mark.of(statistics, now), 1.0, np.ones(sampled, bool))
    return tuple(starmap(partial(_between, statistics), pairwise([nothing, *ages, everything])))


def to_plan_from(parts: Sequence[Part], statistics: RoutingStatistics) -> RoutingStatistics:
    """All parts but the last but one, which is evidence, from where on the traffic was the same: further back than
    that, evidence included, would foretell the newest part less well.

    Which experts are chosen together is counted in their sample. Where they are of all that came, they have its windows
    as well, which say how loads surge. Where they are of traffic that has just come they have none: chance, and what
    came before, would be taken for surges.
    """
    *earlier, _, late = (part.statistics for part in parts)
    before = [_undecayed(part) for part in parts[:-1]]
    first = min(range(len(before)), key=lambda first: _surprise(late.load, before[first:]))
    found = _together([*earlier[first:], late])
    found.windows = statistics.windows[:0] if first else statistics.windows
    return found


def _together(parts: Sequence[RoutingStatistics]) -> RoutingStatistics:
    """Statistics of all ``parts`` together."""
    ids = np.concatenate([part.sample.ids for part in parts])
    found = RoutingStatistics.of_ids(ids, parts[0].shape.experts, windows=1)
    found.tokens = sum(part.tokens for part in parts)
    found.load = np.sum([part.load for part in parts], axis=0)
    found.pairs *= np.float32(found.tokens / max(len(ids), 1))
    return found


def _undecayed(part: Part) -> Floats:
    """Its loads with each pair counted as one, however little it weighs by now."""
    tokens = part.statistics.tokens
    return part.statistics.load * (part.rows / tokens) if tokens > 0 else part.statistics.load


def _surprise(seen: Floats, known: Sequence[Floats]) -> float:
    """Cross-entropy of the loads seen, in nats: how ill those known together say which experts are chosen."""
    likely = np.sum(known, axis=0) + 0.5
    likely /= likely.sum(axis=1, keepdims=True)
    return float(-(seen * np.log(likely)).sum())


def _seen_from(statistics: RoutingStatistics, mark: Mark) -> _Before | None:
    """The mark as these statistics see it; None where they are others."""
    if mark.load.shape != statistics.load.shape:
        return None
    keys = statistics.sample.keys
    shift = _shift(mark.keys, keys)
    if shift is None:
        return None
    weight = math.exp(-shift)
    missing = np.maximum(weight * mark.load - statistics.load, 0).sum()
    if missing > _LOST * weight * mark.load.sum():
        return None
    return _Before(mark, weight, _found(keys, mark.keys + shift))


def _shift(old: Floats, new: Floats) -> float | None:
    """The number that was added to keys that both have; None where they have none in common."""
    probes = old[:_PROBES]
    apart = np.sort((new[None, :] - probes[:, None]).ravel())
    apart = apart[apart >= -_SAME]
    if not len(apart):
        return None
    agree = np.searchsorted(apart, apart + _SAME, side="right") - np.arange(len(apart))
    best = int(agree.argmax())
    return float(max(apart[best], 0.0)) if agree[best] >= _AGREE else None


def _found(keys: Floats, among: Floats) -> NDArray[np.bool_]:
    """bool ``[len(keys)]``: which of the keys, ascending, are ``among`` others, ascending."""
    right = np.minimum(np.searchsorted(among, keys), len(among) - 1)
    left = np.maximum(right - 1, 0)
    near = np.minimum(np.abs(among[right] - keys), np.abs(among[left] - keys))
    return np.asarray(near <= 2 * _SAME, dtype=np.bool_)


def _between(statistics: RoutingStatistics, older: _Before, newer: _Before) -> Part:
    shape = statistics.shape
    ids = statistics.sample.ids[newer.held & ~older.held]
    part = RoutingStatistics(shape.layers, shape.experts, shape.top_k, capacity=len(ids), seed=0)
    part.sample.add(ids)
    part.load = np.maximum(newer.weight * newer.mark.load - older.weight * older.mark.load, 0)
    part.tokens = max(newer.weight * newer.mark.rows - older.weight * older.mark.rows, 0.0)
    # Those in the middle of the time in between weigh as the (geometric) mean of its ends does.
    return Part(newer.mark.at - older.mark.at, part.tokens / math.sqrt(older.weight * newer.weight), part)
