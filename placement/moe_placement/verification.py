"""Did a move bring what was promised? Judged on counted figures; latency only guards against harm."""

from __future__ import annotations

from dataclasses import dataclass, fields

from moe_placement.checks import real
from moe_placement.errors import InvalidPolicyError, InvalidStatisticsError


@dataclass(frozen=True, slots=True)
class Observed:
    """What the data plane counted in a window.

    Attributes:
        tokens: token rows routed, once per layer.
        fan_out: shards visited per token and layer.
        node_fan_out: remote nodes visited per token and layer; 0 on a single node.
        balance: mean / max over shards of pairs served.
        latency: seconds per output token, the median; None where not measured.
    """

    tokens: float
    fan_out: float
    node_fan_out: float
    balance: float
    latency: float | None = None

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None or item.name != "latency":
                real(InvalidStatisticsError, f"observed {item.name}", value)
        if self.balance > 1 + 1e-9:
            raise InvalidStatisticsError(f"observed balance is {self.balance}; mean / max is at most 1")


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

    The score is the relative drop in node fan-out (in fan-out on one node; -1 where there were none before) plus the
    relative drop in the fullest shard's load, 1 / balance. The move stays if the score is above -``tolerance`` and
    latency rose by at most ``harm``.

    Raises:
        InvalidStatisticsError: fewer than ``least_tokens`` tokens in a window: wait longer.
        InvalidPolicyError: a threshold that is negative or not finite.
    """
    for name, value in (("least_tokens", least_tokens), ("harm", harm), ("tolerance", tolerance)):
        real(InvalidPolicyError, name, value)
    if min(before.tokens, after.tokens) < least_tokens:
        raise InvalidStatisticsError(
            f"too few tokens to judge by: {before.tokens:g} before, {after.tokens:g} after, {least_tokens:g} needed"
        )
    visits = ("node fan-out", before.node_fan_out, after.node_fan_out)
    if before.node_fan_out == 0 and after.node_fan_out == 0:
        visits = ("fan-out", before.fan_out, after.fan_out)
    per = visits[1] or visits[2]
    travel = (visits[1] - visits[2]) / per if per else 0.0
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
