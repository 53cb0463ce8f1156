"""Did a move bring what was promised? Judged on counted figures; latency only guards against harm.

Latency is compared at equal load: tokens of steps of as many rows before and since, weighted alike. It has risen where
its median has, by more than is borne, *and* three of four tokens took longer than three of four did before. The second
is what noise does not do: a machine busy with other things spreads the times of either side, and then they overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from moe_placement.checks import items, real
from moe_placement.errors import InvalidPolicyError, InvalidStatisticsError

LEAST_PACED = 500
"""Tokens of either side in steps of as many rows, from which latency is compared."""
LEAST_NODES = 0.1
"""Nodes visited per token and layer, on either side, from which they are compared, and that differences of fewer are
relative to: fewer cost nothing to speak of, and a few pairs asked for again elsewhere are any part of them."""
LONGER = 1.2
"""Times as long contexts, from which steps of as many rows take longer by themselves: attention reads all of them."""
MORE_TRAFFIC = 1.5
"""Times the rows a second from which shards have so much more to do that latency says nothing of the placement: rows of
one step do not tell how many attention processes ask at once."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long tokens followed one another in steps of equally many rows.

    Attributes:
        rows: of such a step.
        tokens: counted.
        lower, median, upper: seconds, quartiles.
    """

    rows: int
    tokens: float
    lower: float
    median: float
    upper: float

    def __post_init__(self) -> None:
        for item in fields(self):
            real(InvalidStatisticsError, f"pace {item.name}", getattr(self, item.name))


@dataclass(frozen=True, slots=True)
class Observed:
    """What the data plane counted in a window.

    Attributes:
        tokens: token rows routed, once per layer.
        fan_out: shards visited per token and layer.
        node_fan_out: remote nodes visited per token and layer; 0 on a single node.
        balance: mean / max over shards of pairs served.
        paces: how long tokens took, by the rows of a step; empty where not measured.
        rate: token rows per second; 0 where not measured.
        context: tokens that answers and their prompts had, on average over those of ``paces``; 0 where not measured.
    """

    tokens: float
    fan_out: float
    node_fan_out: float
    balance: float
    paces: tuple[Pace, ...] = ()
    rate: float = 0.0
    context: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens", "fan_out", "node_fan_out", "balance", "rate", "context"):
            real(InvalidStatisticsError, f"observed {name}", getattr(self, name))
        items(InvalidStatisticsError, "observed paces", self.paces)
        if self.balance > 1 + 1e-9:
            raise InvalidStatisticsError(f"observed balance is {self.balance}; mean / max is at most 1")


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds between tokens at equal load, and what part of the tokens that were compared it was of.

    Attributes:
        before, after: medians.
        apart: whether three of four tokens took longer than three of four before.
    """

    before: float
    after: float
    apart: bool

    @property
    def rise(self) -> float:
        """Part by which the median has risen; negative where it fell."""
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a move stays.

    Attributes:
        keep: by all that was measured.
        score: the relative gain measured.
        reasons: in words and figures.
        latency: None where it could not be compared.
        slower: whether latency alone speaks against it.
        by_nodes: whether node fan-out was compared, and not fan-out.
    """

    keep: bool
    score: float
    reasons: tuple[str, ...]
    latency: Latency | None = None
    slower: bool = False
    by_nodes: bool = False


def verify(
    before: Observed,
    after: Observed,
    least_tokens: float = 1000,
    harm: float = 0.10,
    tolerance: float = 0.005,
    node_tolerance: float | None = None,
) -> Verdict:
    """Compare two windows.

    The score is the relative drop in node fan-out (of at least ``LEAST_NODES``; in fan-out where fewer nodes are
    visited on both sides, or as many as before) plus the relative drop in the fullest shard's load, 1 / balance. The
    move stays if the score is above -``tolerance`` (``node_tolerance`` by node fan-out, if given) and latency, where it
    can be compared, has not clearly risen by more than ``harm``. It never speaks for a move.

    Raises:
        InvalidStatisticsError: fewer than ``least_tokens`` tokens in a window: wait longer.
        InvalidPolicyError: a threshold that is negative or not finite.
    """
    nodes_borne = tolerance if node_tolerance is None else node_tolerance
    thresholds = {
        "least_tokens": least_tokens, "harm": harm, "tolerance": tolerance, "node_tolerance": nodes_borne
    }  # fmt: skip
    for name, value in thresholds.items():
        real(InvalidPolicyError, name, value)
    if min(before.tokens, after.tokens) < least_tokens:
        raise InvalidStatisticsError(
            f"too few tokens to judge by: {before.tokens:g} before, {after.tokens:g} after, {least_tokens:g} needed"
        )
    nodes = (before.node_fan_out, after.node_fan_out)
    of = max(before.node_fan_out, LEAST_NODES)
    by_nodes = max(nodes) >= LEAST_NODES and abs(nodes[0] - nodes[1]) > nodes_borne * of
    if by_nodes:
        tolerance, visits = nodes_borne, ("node fan-out", *nodes)
    else:
        visits, of = ("fan-out", before.fan_out, after.fan_out), before.fan_out or after.fan_out
    travel = (visits[1] - visits[2]) / of if of else 0.0
    fullest_before, fullest_after = (1 / max(side.balance, 1e-6) for side in (before, after))
    load = (fullest_before - fullest_after) / fullest_before
    score = travel + load
    reasons = [
        f"{visits[0]} {visits[1]:.3f} -> {visits[2]:.3f} per token and layer ({-travel:+.1%})",
        f"balance {before.balance:.3f} -> {after.balance:.3f}",
    ]
    keep = score > -tolerance
    if not keep:
        reasons.append(f"together that is a loss of {-score:.1%}")
    latency = compare_latency(before, after)
    if not isinstance(latency, Latency):
        if before.paces:
            reasons.append(f"latency was not compared: {latency}")
        return Verdict(keep, score, tuple(reasons), by_nodes=by_nodes)
    slower = latency.apart and latency.rise > harm
    text = f"{_milliseconds(latency.before)} -> {_milliseconds(latency.after)} ms ({latency.rise:+.1%})"
    borne = f", clearly more than the {harm:.0%} that is borne" if slower else ""
    reasons.append(f"a token took {text} in steps of as many rows{borne}")
    return Verdict(keep and not slower, score, tuple(reasons), latency, slower, by_nodes)


def compare_latency(before: Observed, after: Observed) -> Latency | str:
    """Latency at equal load, or why it cannot be compared: too few tokens, much more traffic than before, or much
    longer contexts."""
    since = {pace.rows: pace for pace in after.paces}
    both = [(pace, since[pace.rows]) for pace in before.paces if pace.rows in since]
    weights = [min(was.tokens, now.tokens) for was, now in both]
    if (common := sum(weights)) < LEAST_PACED:
        return f"{common:.0f} tokens came in steps of as many rows on either side, {LEAST_PACED} are needed"
    if before.rate > 0 and after.rate > MORE_TRAFFIC * before.rate:
        return f"{after.rate:.3g} rows a second came, and {before.rate:.3g} before"
    if before.context > 0 and after.context > LONGER * before.context:
        return f"contexts had {after.context:.3g} tokens, and {before.context:.3g} before"
    medians = (_mean([was.median for was, _ in both], weights), _mean([now.median for _, now in both], weights))
    upper = _mean([was.upper for was, _ in both], weights)
    lower = _mean([now.lower for _, now in both], weights)
    return Latency(*medians, apart=lower > upper)


def _mean(seconds: Sequence[float], weights: Sequence[float]) -> float:
    """Of seconds that differ by factors: geometric."""
    logs = [math.log(max(each, 1e-6)) for each in seconds]
    return math.exp(sum(log * weight for log, weight in zip(logs, weights, strict=True)) / sum(weights))


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g}"
