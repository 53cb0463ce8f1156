"""Did a move bring what was promised? Judged on counted figures; latency only guards against harm."""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_placement.errors import InvalidStatisticsError


@dataclass(frozen=True, slots=True)
class Observed:
    """What the data plane counted in a window.

    Attributes:
        tokens: token rows routed, once per layer.
        fan_out: shards visited per token and layer.
        copies: remote nodes visited per token and layer; 0 on a single node.
        balance: mean / max over shards of pairs served.
        latency: seconds per output token, the median; None where not measured.
    """

    tokens: float
    fan_out: float
    copies: float
    balance: float
    latency: float | None = None

    def __post_init__(self) -> None:
        figures = (self.tokens, self.fan_out, self.copies, self.balance, self.latency or 0.0)
        if not all(math.isfinite(value) and value >= 0 for value in figures):
            raise InvalidStatisticsError(f"observed figures must be finite and not negative, got {self}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a move stays; ``reasons`` in words, ``score`` the relative gain measured."""

    keep: bool
    score: float
    reasons: tuple[str, ...]


def verify(
    before: Observed, after: Observed, least_tokens: float = 1000, harm: float = 0.10, tolerance: float = 0.005
) -> Verdict:
    """Compare two windows.

    The score is the relative drop in remote copies (in fan-out on one node) plus the relative drop in the fullest
    shard's load, 1 / balance. The move stays if the score is above -``tolerance`` and latency rose by at most ``harm``.

    Raises:
        InvalidStatisticsError: fewer than ``least_tokens`` tokens in a window: wait longer.
    """
    if min(before.tokens, after.tokens) < least_tokens:
        raise InvalidStatisticsError(
            f"too few tokens to judge by: {before.tokens:g} before, {after.tokens:g} after, {least_tokens:g} needed"
        )
    visits = ("remote copies", before.copies, after.copies)
    if before.copies == 0 and after.copies == 0:
        visits = ("fan-out", before.fan_out, after.fan_out)
    travel = (visits[1] - visits[2]) / visits[1] if visits[1] else 0.0
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
    if before.latency and after.latency and after.latency > before.latency * (1 + harm):
        keep = False
        reasons.append(
            f"latency rose by {after.latency / before.latency - 1:.0%}, more than the {harm:.0%} that is borne"
        )
    return Verdict(keep, score, tuple(reasons))
