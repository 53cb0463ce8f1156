"""What becomes of the number of shards, from usage, bounds and what was wanted before. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from moe_operator.api.autoscaling import Autoscaling
from moe_operator.api.reasons import AutoscaleReason
from moe_operator.autoscale.bounds import Bounds
from moe_operator.autoscale.need import Targets, out_of_reach
from moe_operator.autoscale.usage import Usage

MOST_PLANS = 4
"""So many numbers of shards are planned for, at most, before one is chosen: each takes up to seconds."""


@dataclass(frozen=True, slots=True)
class Wish:
    """That another number of shards is wanted.

    Attributes:
        before, after: ``spec.experts.shards``.
        message: why, with figures.
        used: the figures; None where bounds alone say so.
    """

    before: int
    after: int
    reason: AutoscaleReason
    message: str
    used: Usage | None = None

    @property
    def is_more(self) -> bool:
        return self.after > self.before

    def most_busy(self, target: float) -> float | None:
        """How busy the busiest shard may be as planned. None where a plan need only fit: for more shards, and for
        bounds, which a person set."""
        return None if self.is_more or self.used is None else target


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What a plan for ``shards`` shards says.

    Attributes:
        problem: why it does not fit, if so.
        busiest: part of its time in which the busiest shard would answer somebody, 0 to 1; None without figures.
        balance: mean load of a shard divided by that of the busiest, per layer, averaged; None without traffic.
    """

    shards: int
    problem: str | None = None
    busiest: float | None = None
    balance: float | None = None

    def refusal(self, target: float | None) -> str | None:
        """Why so many shards cannot be, if so. ``target``: how busy the busiest shard may be; None for no bound."""
        if self.problem is not None:
            return self.problem
        if target is not None and self.busiest is not None and self.busiest > target:
            even = f" at a balance of {self.balance:.2f}" if self.balance is not None else ""
            return f"the busiest of {self.shards} shards would be busy {self.busiest:.0%} of its time{even}"
        return None


def targets_of(policy: Autoscaling) -> Targets:
    """The policy's targets, as a part of one and in seconds."""
    itl = policy.itl_ms / 1000.0 if policy.itl_ms is not None else None
    return Targets(policy.target_utilization / 100.0, itl)


def out_of_bounds(shards: int, running: int, bounds: Bounds) -> Wish | None:
    """The wish that bounds alone make. ``running``: how many shards run, more than ``shards`` where the copies need
    more."""
    if max(shards, running) < bounds.least:
        message = f"{shards} shards are fewer than {bounds.field}.minShards, which is {bounds.least}"
        return Wish(shards, bounds.least, AutoscaleReason.BELOW_MINIMUM, message)
    if shards > bounds.most:
        message = f"{shards} shards are more than {bounds.field}.maxShards, which allows {bounds.most}"
        return Wish(shards, bounds.most, AutoscaleReason.ABOVE_MAXIMUM, message)
    return None


def by_figures(shards: int, wanted: int, reason: AutoscaleReason | None, used: Usage, policy: Autoscaling) -> Wish:
    """The wish that figures make, once it has lasted; ``wanted``: within the bounds."""
    busy = f"shard {used.index} is busy {used.busiest:.0%} of its time (targetUtilization {policy.target_utilization}%)"
    if used.itl is not None:
        busy += f", {_pace(used.itl, policy)}"
    if wanted < shards:
        message = f"{busy}: {wanted} shards instead of {shards} suffice, and did for {policy.scale_down_after}"
        return Wish(shards, wanted, AutoscaleReason.BELOW_TARGET, message, used)
    # What was wanted all the time may be more than what is at last, for another reason.
    late = reason is AutoscaleReason.ITL_ABOVE_TARGET
    why = AutoscaleReason.ITL_ABOVE_TARGET if late else AutoscaleReason.UTILIZATION_ABOVE_TARGET
    message = f"{busy}: {wanted} shards instead of {shards} are wanted, and were for {policy.scale_up_after}"
    return Wish(shards, wanted, why, message, used)


def not_by_shards(shards: int, used: Usage, policy: Autoscaling) -> Wish | None:
    """The wish that the number stays, though tokens take too long, where no number of shards would change that."""
    if used.itl is None or not out_of_reach(used, targets_of(policy)):
        return None
    took = f"{_pace(used.itl, policy)}, of which shards have {used.busiest:.0%}"
    said = f"{took}: no number of shards changes that; see to attention, or raise itlMs"
    return Wish(shards, shards, AutoscaleReason.ITL_NOT_BY_SHARDS, said, used)


def _pace(itl: float, policy: Autoscaling) -> str:
    against = f" (itlMs {policy.itl_ms})" if policy.itl_ms is not None else ""
    return f"a token takes {itl * 1000:.0f} ms{against}"


def candidates(wish: Wish) -> tuple[int, ...]:
    """Numbers of shards to ask plans for, the best first. Where fewer shards are wanted, all numbers up to one less
    than there are; where more, that number alone."""
    if wish.is_more:
        return (wish.after,)
    fewer = range(wish.after, wish.before)
    if len(fewer) <= MOST_PLANS:
        return tuple(fewer)
    spread = {fewer[round(at * (len(fewer) - 1) / (MOST_PLANS - 1))] for at in range(MOST_PLANS)}
    return tuple(sorted(spread))


def chosen(wish: Wish, plans: tuple[Foreseen, ...], target: float) -> Wish:
    """The wish, as far as plans allow it: with the first number that they allow, or else that the number stays."""
    refused = ""
    for plan in plans:
        refusal = plan.refusal(wish.most_busy(target))
        if refusal is None:
            return _with(wish, plan, refused)
        refused = refused or f"not {plan.shards}: {refusal}"
    return Wish(wish.before, wish.before, AutoscaleReason.PLAN_REFUSED, f"{wish.message}; but {refused}", wish.used)


def _with(wish: Wish, plan: Foreseen, refused: str) -> Wish:
    message = wish.message + (f"; {refused}" if refused else "")
    if not wish.is_more and plan.busiest is not None:
        message += f"; planned: {plan.shards} shards, the busiest of them busy {plan.busiest:.0%}"
        message += f", balance {plan.balance:.2f}" if plan.balance is not None else ""
    return Wish(wish.before, plan.shards, wish.reason, message, wish.used)
