"""How busy shards are, from what two reports of a directory count. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moe_contract.report import MOST_PACES, DirectoryReport, Pace, ShardReport

LEAST_SECONDS = 4.0
"""Between two readings that are compared, at least: over less time a figure is noise. A settled deployment is looked at
every 5 s."""
_LEAST_SERVED_US = 1_000_000
"""Shards count on when they are next asked, which is once in a second or so."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What is counted at one moment.

    Attributes:
        at: monotonic seconds.
        shards: that have experts.
        epoch: of the table in force, whose figures ``paces`` are; None before it had traffic.
        paces: how long tokens take.
    """

    at: float
    shards: tuple[ShardReport, ...]
    epoch: int | None
    paces: tuple[Pace, ...]

    @classmethod
    def of(cls, report: DirectoryReport, at: float) -> Reading:
        shards = tuple(shard for shard in report.shards if shard.wanted and shard.held)
        figures = report.figures
        return cls(at, shards, figures.epoch if figures else None, figures.paces if figures else ())


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy a deployment was between two readings.

    Attributes:
        shards: that have experts.
        busiest: part of its time in which the busiest one answered somebody, 0 to 1; ``index``: which one it is.
        total: the sum of these parts of all.
        itl: seconds between two tokens of an answer, the median; None where nobody got any.
    """

    shards: int
    busiest: float
    index: int
    total: float
    itl: float | None = None


def usage(before: Reading, now: Reading) -> Usage | None:
    """How busy the deployment was between the readings; None where that cannot be told: a shard is another process, or
    has not counted on."""
    if now.at - before.at < LEAST_SECONDS or not now.shards:
        return None
    earlier = {shard.index: shard for shard in before.shards}
    parts = [(_part(earlier.get(shard.index), shard), shard.index) for shard in now.shards]
    told = [(part, index) for part, index in parts if part is not None]
    if len(told) < len(parts):
        return None
    busiest, index = max(told, key=lambda each: (each[0], -each[1]))
    itl = median_pace(_came_between(before, now))
    return Usage(len(told), busiest, index, sum(part for part, _ in told), itl)


def median_pace(paces: Sequence[Pace]) -> float | None:
    """Seconds between two tokens of an answer: the median of those of steps of each size, by tokens."""
    ordered = sorted((pace for pace in paces if pace.tokens), key=lambda pace: pace.median)
    rest = sum(pace.tokens for pace in ordered) / 2
    for pace in ordered:
        rest -= pace.tokens
        if rest <= 0:
            return pace.median
    return None


def tells(shards: Sequence[ShardReport]) -> bool:
    """Whether these shards count how long they answer: those of older releases do not."""
    return all(shard.served_us for shard in shards)


def _came_between(before: Reading, now: Reading) -> Sequence[Pace]:
    """Paces with the tokens of this time alone, lest a peak of minutes ago pass for what is now. Steps of as many rows
    take as long as ever by this placement, but how many rows a step has follows the load. Nothing where the counts were
    halved in between."""
    earlier = {pace.rows: pace.tokens for pace in before.paces} if before.epoch == now.epoch else {}
    # What was not told had no more than what was told last.
    most = min(earlier.values()) if len(earlier) >= MOST_PACES else 0
    new = [(pace, pace.tokens - earlier.get(pace.rows, min(most, pace.tokens))) for pace in now.paces]
    if any(tokens < 0 for _, tokens in new):
        return ()
    return [pace.model_copy(update={"tokens": tokens}) for pace, tokens in new]


def _part(before: ShardReport | None, now: ShardReport) -> float | None:
    if before is None or before.incarnation != now.incarnation:
        return None
    served, busy = now.served_us - before.served_us, now.busy_us - before.busy_us
    if served < _LEAST_SERVED_US or busy < 0:
        return None
    return min(1.0, busy / served)
