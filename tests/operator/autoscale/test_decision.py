"""What becomes of a wish for another number of shards."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from moe_operator.api.autoscaling import Autoscaling
from moe_operator.api.reasons import AutoscaleReason
from moe_operator.api.status import AutoscalingStatus
from moe_operator.autoscale.bounds import Bounds
from moe_operator.autoscale.decision import (
    Foreseen,
    Wish,
    by_figures,
    candidates,
    chosen,
    not_by_shards,
    out_of_bounds,
)
from moe_operator.autoscale.decisions import is_news, with_decision
from moe_operator.autoscale.forecast import balance, busiest, shares
from moe_operator.autoscale.usage import Usage
from moe_placement import Placement

POLICY = Autoscaling(min_shards=1, max_shards=16, itl_ms=60)
USED = Usage(4, 0.2, 3, 0.6, 0.0421)


@pytest.mark.parametrize(
    ("shards", "running", "bounds", "after"),
    [
        (1, 1, Bounds(2, 8), 2),
        (1, 3, Bounds(2, 8), None),  # what the copies need runs anyway
        (9, 9, Bounds(2, 8), 8),
        (8, 8, Bounds(2, 8), None),
        (2, 2, Bounds(2, 8), None),
    ],
)
def test_bounds_alone(shards: int, running: int, bounds: Bounds, after: int | None) -> None:
    found = out_of_bounds(shards, running, bounds)
    assert (found and found.after) == after


def test_the_field_of_a_bound_is_named() -> None:
    wish = out_of_bounds(1, 1, Bounds(2, 8, 1))
    assert wish
    assert wish.message == ("1 shards are fewer than spec.experts.autoscaling.schedules[1].minShards, which is 2")
    assert wish.reason is AutoscaleReason.BELOW_MINIMUM


def test_figures_are_told() -> None:
    wish = by_figures(4, 2, AutoscaleReason.BELOW_TARGET, USED, POLICY)
    assert wish.message == (
        "shard 3 is busy 20% of its time (targetUtilization 70%), a token takes 42 ms (itlMs 60): "
        "2 shards instead of 4 suffice, and did for 5m"
    )
    late = by_figures(4, 6, AutoscaleReason.ITL_ABOVE_TARGET, USED, POLICY)
    assert late.message.endswith("6 shards instead of 4 are wanted, and were for 15s")
    assert late.reason is AutoscaleReason.ITL_ABOVE_TARGET


def test_tokens_that_no_number_of_shards_makes_faster() -> None:
    assert not_by_shards(4, USED, POLICY) is None
    wish = not_by_shards(4, replace(USED, itl=0.1), POLICY)
    assert wish
    assert wish.message == (
        "a token takes 100 ms (itlMs 60), of which shards have 20%: no number of shards changes that; see to "
        "attention, or raise itlMs"
    )
    assert (wish.before, wish.after, wish.reason) == (4, 4, AutoscaleReason.ITL_NOT_BY_SHARDS)


@pytest.mark.parametrize(
    ("before", "after", "asked"),
    [(2, 5, (5,)), (4, 3, (3,)), (4, 1, (1, 2, 3)), (5, 1, (1, 2, 3, 4)), (20, 2, (2, 8, 13, 19))],
)
def test_which_plans_are_asked_for(before: int, after: int, asked: tuple[int, ...]) -> None:
    assert candidates(Wish(before, after, AutoscaleReason.BELOW_TARGET, "")) == asked


DOWN = Wish(4, 2, AutoscaleReason.BELOW_TARGET, "quiet", USED)
UP = Wish(2, 4, AutoscaleReason.UTILIZATION_ABOVE_TARGET, "busy", USED)
BOUND = Wish(9, 8, AutoscaleReason.ABOVE_MAXIMUM, "too many")
NO = Foreseen(2, "2 x 4 slots do not hold 16 experts")
CHOICES = [
    (DOWN, (Foreseen(2, busiest=0.5, balance=0.9), Foreseen(3)), 2, ["quiet; planned: 2 shards", "50%", "0.90"]),
    (DOWN, (NO, Foreseen(3, busiest=0.4)), 3, ["quiet; not 2: 2 x 4 slots do not hold", "planned: 3 shards"]),
    (
        DOWN,
        (Foreseen(2, busiest=0.71, balance=0.41), Foreseen(3)),
        3,
        ["not 2: the busiest of 2 shards", "71%", "0.41"],
    ),
    (DOWN, (NO, Foreseen(3, busiest=0.9)), 4, ["quiet; but not 2: 2 x 4 slots do not hold"]),
    (UP, (Foreseen(4, busiest=0.9),), 4, ["busy"]),
    (UP, (Foreseen(4, "a shard has 1 GiB"),), 2, ["busy; but not 4: a shard has 1 GiB"]),
    (BOUND, (Foreseen(8, busiest=0.9),), 8, ["too many"]),  # a person set it
    (BOUND, (Foreseen(8, "does not fit"),), 9, ["but not 8: does not fit"]),
]


@pytest.mark.parametrize(("wish", "plans", "after", "words"), CHOICES)
def test_only_what_the_plans_bear(wish: Wish, plans: tuple[Foreseen, ...], after: int, words: list[str]) -> None:
    found = chosen(wish, plans, 0.7)
    assert found.after == after
    assert (found.reason is AutoscaleReason.PLAN_REFUSED) == (after == wish.before)
    for word in words:
        assert word in found.message


def test_how_busy_a_plan_makes_shards() -> None:
    # Two layers of four experts on two shards; expert 0 of layer 0 is on both.
    placement = Placement.of(np.array([[0, 1, -1, 0, 2, 3], [0, 1, -1, 2, 3, -1]]), [3, 3], 4)
    counts = np.array([[60, 20, 10, 10], [0, 0, 0, 0]])
    part = shares(placement, counts)
    assert part.tolist() == [[0.5, 0.5], [0, 0]]
    assert busiest(part) == 0.5
    assert balance(part, 2) == 1.0
    part = shares(placement, np.array([[60, 20, 10, 10], [1, 1, 5, 1]]))
    assert part.tolist() == [[0.5, 0.5], [0.25, 0.75]]
    assert busiest(part) == 1.25 / 2
    assert balance(part, 2) == pytest.approx((1 + 0.5 / 0.75) / 2)
    assert busiest(shares(placement, np.zeros((2, 4), dtype=np.int64))) == 0.0


NOW = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)


def test_ten_decisions_are_kept_with_their_figures() -> None:
    told = AutoscalingStatus(shards=4)
    for number in range(12):
        wish = UP if number % 2 else DOWN
        told = told.model_copy(update={"decisions": with_decision(told, wish, NOW + timedelta(minutes=number))})
    assert len(told.decisions) == 10
    last = told.decisions[0]
    assert (last.time, last.from_shards, last.to_shards) == ("2026-03-02T12:11:00Z", 2, 4)
    assert (last.reason, last.message, last.utilization, last.itl_ms) == ("UtilizationAboveTarget", "busy", 20, 42)
    assert with_decision(told, None, NOW) == told.decisions


def test_what_was_not_carried_out_is_told_once() -> None:
    told = AutoscalingStatus(shards=4)
    for seconds, kept in ((0, 1), (30, 1), (120, 2)):
        decisions = with_decision(told, DOWN, NOW + timedelta(seconds=seconds))
        told = told.model_copy(update={"decisions": decisions})
        assert len(told.decisions) == kept
    refused = Wish(4, 4, AutoscaleReason.PLAN_REFUSED, "no", USED)
    assert is_news(refused, told)
    told = told.model_copy(update={"decisions": with_decision(told, refused, NOW)})
    assert not is_news(refused, told)
    assert is_news(DOWN, told)
