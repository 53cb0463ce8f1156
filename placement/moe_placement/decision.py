"""Whether a plan is worth carrying out, in figures and words; and whether it was, afterwards.

A plan is fitted to a window, noise included, so it is judged on *evidence*: windows that it was not made from. Three
tests must pass: the gain there pays for the move with a margin, it is large enough to matter, and it stands out of what
the evidence differs by between its own random halves. Called by whoever rebalances; pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_placement.checks import real, whole
from moe_placement.dispatch import live_copies
from moe_placement.errors import InvalidPolicyError, InvalidStatisticsError, MismatchError
from moe_placement.expected import expected_figures, figures_on
from moe_placement.migration import Migration
from moe_placement.placement import Placement
from moe_placement.simulation import simulate
from moe_placement.solver.plan import Plan
from moe_placement.statistics import RoutingStatistics
from moe_placement.topology import Topology


@dataclass(frozen=True, slots=True)
class Policy:
    """Thresholds of a decision.

    Attributes:
        margin: part of the price that the gain must exceed it by (0.3: accepted from 1.3 times the price).
        least_gain: relative gain in modelled time below which nothing is moved (hysteresis).
        certainty: standard deviations of noise that the gain must exceed.
        halvings: random halvings of the evidence that the noise is estimated from.
        stall: seconds of service lost by a switch, beyond the bytes.
        cooldown: decisions after an accepted one in which nothing is accepted.
    """

    margin: float = 0.3
    least_gain: float = 0.01
    certainty: float = 4.0
    halvings: int = 8
    stall: float = 0.5
    cooldown: int = 0

    def __post_init__(self) -> None:
        for name in ("margin", "least_gain", "certainty", "stall"):
            real(InvalidPolicyError, f"policy: {name}", getattr(self, name))
        whole(InvalidPolicyError, "policy: halvings", self.halvings, least=1)
        whole(InvalidPolicyError, "policy: cooldown", self.cooldown)


@dataclass(frozen=True, slots=True)
class Decision:
    """The outcome.

    Attributes:
        accepted: whether to carry the plan out.
        gain: relative gain in modelled time on the evidence, over the baseline; NaN for repairs without evidence.
        saved: seconds saved over the horizon, all layers; NaN with ``gain``.
        price: seconds that the busiest link is taken from service, and the stall.
        noise: standard deviation of ``gain`` by chance; NaN where an earlier test had failed already.
        reasons: one sentence per test that failed, or the one that says why it is worth it or not to be asked.
    """

    accepted: bool
    gain: float
    saved: float
    price: float
    noise: float
    reasons: tuple[str, ...]


def decide(
    plan: Plan, migration: Migration, evidence: Sequence[RoutingStatistics], horizon: float,
    history: Sequence[Decision] = (), policy: Policy | None = None, seed: int = 0,
) -> Decision:  # fmt: skip
    """Judge a plan.

    Repairs are no question of gain: a plan that brings copies off shards without slots, or makes those that the limits
    ask for, is accepted. Where only that is wanted, ``plan.baseline`` is the placement to migrate to.

    Args:
        plan: with a current placement.
        migration: from ``plan_migration``, all the way to its placement.
        evidence: statistics of windows that the plan was not made from, newest last.
        horizon: model steps for which the placement is expected to serve.
        history: earlier decisions, newest last.
        policy: thresholds.
        seed: of the random halves.

    Raises:
        InvalidPolicyError: a horizon that is negative or not finite.
        InvalidStatisticsError: no evidence, or none with traffic, and nothing is to be repaired.
        MismatchError: the plan has no current placement, the migration is not the plan's, or the evidence is of
            another model.
    """
    policy = policy or Policy()
    real(InvalidPolicyError, "horizon", horizon)
    whole(InvalidPolicyError, "seed", seed)
    if plan.baseline is None:
        raise MismatchError("a plan without a current placement has no alternative to be judged against")
    _check_same_way(plan, migration)
    if len({window.shape for window in evidence}) > 1:
        raise MismatchError(f"the evidence is of different models: {[window.shape for window in evidence]}")
    windows = [window for window in evidence if window.tokens > 0]
    price = migration.seconds + policy.stall if migration.transfers else 0.0
    if plan.repairs and not windows:
        return Decision(True, math.nan, math.nan, price, math.nan, (f"{plan.due}; it takes {price:.3g} s",))
    if not windows:
        raise InvalidStatisticsError("no evidence: give at least one window with traffic that the plan was not made of")
    now, new = (_seconds(windows, placement, plan.topology) for placement in (plan.baseline, plan.placement))
    gain = (now - new) / now if now > 0 else 0.0
    saved = (now - new) * plan.placement.layers * horizon
    if plan.repairs:
        text = f"{plan.due}; the rest gains {gain:.2%}, and all of it takes {price:.3g} s"
        return Decision(True, gain, saved, price, math.nan, (text,))
    reasons = _objections(plan, gain, saved, price, history, policy)
    noise = math.nan
    if not reasons:
        noise = _noise(windows, plan.baseline, plan.placement, plan.topology, policy, np.random.default_rng(seed)) / now
        if gain < policy.certainty * noise:
            reasons = [
                f"gain {gain:.2%} does not stand out of noise: random halves of the evidence differ by {noise:.2%} "
                f"(standard deviation), {policy.certainty:g} of these are asked for"
            ]
    if reasons:
        return Decision(False, gain, saved, price, noise, tuple(reasons))
    text = (
        f"gain {gain:.2%} saves {saved:.3g} s over {horizon:g} steps for a price of {price:.3g} s "
        f"({migration.transfers} transfers); noise {noise:.2%}"
    )
    return Decision(True, gain, saved, price, noise, (text,))


def _check_same_way(plan: Plan, migration: Migration) -> None:
    made = {(each.layer, each.expert, each.target) for step in migration.rounds for each in step.transfers}
    wanted = {(int(layer), int(expert), int(shard)) for layer, expert, shard in np.argwhere(plan.moved)}
    if made != wanted:
        raise MismatchError(
            f"the migration makes {len(made - wanted)} copies that the plan does not ask for and leaves out "
            f"{len(wanted - made)}; judge a plan by the whole way to it, and limit that by Limits.max_moved_slots"
        )


def _objections(
    plan: Plan, gain: float, saved: float, price: float, history: Sequence[Decision], policy: Policy
) -> list[str]:
    if plan.moved_slots == 0:
        return ["nothing would move: the placement in force is the best found"]
    objections = []
    if any(decision.accepted for decision in history[-policy.cooldown :] if policy.cooldown):
        objections.append(f"cooling down: a plan was accepted within the last {policy.cooldown} decisions")
    if gain < policy.least_gain:
        objections.append(f"gain {gain:.2%} is below the least that counts, {policy.least_gain:.2%}")
    if saved <= (1 + policy.margin) * price:
        objections.append(
            f"saving {saved:.3g} s does not pay for the move: {price:.3g} s of the busiest link and stall, "
            f"asked for with a margin of {policy.margin:.0%}"
        )
    return objections


def _seconds(windows: Sequence[RoutingStatistics], placement: Placement, topology: Topology) -> float:
    return float(np.mean([figures_on(window, placement, topology).seconds for window in windows]))


def _noise(
    windows: Sequence[RoutingStatistics], current: Placement, new: Placement, topology: Topology, policy: Policy,
    random: np.random.Generator,
) -> float:  # fmt: skip
    """Standard deviation of the gain in seconds, were the same traffic drawn again.

    All evidence is halved at random; var(gain of one half - gain of the other) is 4 times the variance of the gain on
    the whole.
    """
    counts = np.sum([window.load for window in windows], axis=0)
    ids = np.concatenate([window.sample.ids for window in windows])
    top_k = windows[0].shape.top_k
    differences = []
    for _ in range(policy.halvings):
        if len(ids):
            order = random.permutation(len(ids))
            halves = (ids[order[: len(ids) // 2]], ids[order[len(ids) // 2 :]])
            gains = [
                simulate(half, current, topology).seconds - simulate(half, new, topology).seconds for half in halves
            ]
        else:
            # A binomial's mean and deviation: decayed counts are no whole numbers, and few of them are much noise.
            half = np.clip(counts / 2 + np.sqrt(counts) / 2 * random.normal(size=counts.shape), 0, counts)
            gains = [_load_gain(part, current, new, topology, top_k) for part in (half, counts - half)]
        differences.append(gains[0] - gains[1])
    return float(np.sqrt(np.mean(np.square(differences))) / 2)


def _load_gain(load: NDArray[np.float64], current: Placement, new: Placement, topology: Topology, top_k: int) -> float:
    gains = [
        expected_figures(load[layer], live_copies(current, topology, layer), topology, top_k).seconds
        - expected_figures(load[layer], live_copies(new, topology, layer), topology, top_k).seconds
        for layer in range(current.layers)
    ]
    return float(np.mean(gains))
