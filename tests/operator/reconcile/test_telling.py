"""When a status is written: news at once but not without bound, words and figures seldom."""

from collections import Counter
from typing import Any

import pytest
from told import RECONCILING, STALLED

from moe_operator.allowance import Allowance
from moe_operator.api import Condition, ConditionType, MoEDeploymentStatus
from moe_operator.api.status import LoadStatus, PlacementStatus
from moe_operator.reconcile.telling import News, Telling, news

STEP = 0.5
PLACED = PlacementStatus(revision=1, epoch=1, balance="0.90")
LOAD = LoadStatus(time="2026-01-02T03:04:05Z", layer_rows=1, shards="5000 5000")


def status(ready: str = "True Available", message: str = "", **more: Any) -> MoEDeploymentStatus:
    value, reason = ready.split()
    condition = Condition(
        type=ConditionType.READY,
        status=value,
        observed_generation=1,
        last_transition_time="2026-01-02T03:04:05Z",
        reason=reason,
        message=message,
    )
    usual = {"observed_generation": 1, "shards": 2, "placement": PLACED, "conditions": (condition,)}
    return MoEDeploymentStatus(**(usual | more))


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (status(), News.NOTHING),
        (status(message="other words"), News.WORDS),
        (status(ready_shards=1), News.WORDS),
        (status(load=LOAD), News.LOAD),
        (status(load=LOAD, message="other words"), News.LOAD),
        (status(load=LOAD, shards=3), News.REASONS),
        (status(placement=PLACED.model_copy(update={"epoch": 7, "balance": "0.70"})), News.WORDS),
        (status(placement=PLACED.model_copy(update={"revision": 2})), News.REASONS),
        (status(placement=PLACED.model_copy(update={"balance": None})), News.REASONS),
        (status(url="http://elsewhere/v1"), News.REASONS),
        (status("True Suspended"), News.REASONS),
        (status(shards=3), News.REASONS),
        (status(observed_generation=2), News.REASONS),
        (status("False Available"), News.READY),
        (status(conditions=()), News.READY),
    ],
)
def test_news(after: MoEDeploymentStatus, expected: News) -> None:
    assert news(status(), after) is expected


def writes(statuses: list[MoEDeploymentStatus]) -> list[float]:
    """When each write is made, in seconds, if the passes come to these one after another."""
    telling, stands, times = Telling(), MoEDeploymentStatus(), []
    for number, wanted in enumerate(statuses):
        now = 1000.0 + number * STEP
        what = news(stands, wanted)
        if what is not News.NOTHING and telling.wait(what, now) == 0.0:
            telling.written(what, now)
            stands = wanted
            times.append(number * STEP)
    return times


def test_words_that_change_at_every_look() -> None:
    """Never within 30 s, and seldomer the longer it goes on."""
    times = writes([status("False RayUnreachable", f"text {number}") for number in range(2 * 900)])
    assert times == [0.0, 30.0, 90.0, 210.0, 450.0, 750.0]


def test_words_are_told_with_the_next_news_and_then_kept_for_30_s_again() -> None:
    loading = [status("False LoadingExperts", f"{number} of 40 copies") for number in range(40)]
    assert writes([*loading, *([status()] * 4), *([status(message="x")] * 80)]) == [0.0, 20.0, 50.0]


def test_reasons_that_alternate_are_told_at_once_and_then_every_5_s() -> None:
    flapping = [status(f"False {'Unhealthy' if number % 2 else 'ShardsLost'}") for number in range(2 * 120)]
    times = writes(flapping)
    assert times[:4] == [0.0, 0.5, 1.0, 1.5]
    assert len([at for at in times if at > 20]) <= 21
    assert len(times) <= 31


def test_so_is_ready() -> None:
    times = writes([status("True Available" if number % 2 else "False ShardsLost") for number in range(2 * 120)])
    assert times[:9] == [number * STEP for number in range(9)]
    assert len([at for at in times if at > 20]) <= 21


def test_a_change_of_ready_does_not_wait_for_reasons_that_flap() -> None:
    flapping = [status(f"False {'Unhealthy' if number % 2 else 'ShardsLost'}") for number in range(2 * 60)]
    assert writes([*flapping, status()])[-1] == 60.0


def test_loads_are_told_once_a_minute_and_words_with_them() -> None:
    loads = [
        status(load=LOAD.model_copy(update={"layer_rows": number}), message=f"text {number}")
        for number in range(2 * 600)
    ]
    times = writes([status(), *loads])
    # Words alone would be told after 30 s, 60 s more and so on: most go with the loads.
    assert [at for at in times if at >= 120.0] == [60.0 * minute + 0.5 for minute in range(2, 10)]
    assert len(times) <= 12


def test_an_allowance_comes_back() -> None:
    allowance = Allowance(burst=2, seconds=10.0)
    made: Counter[int] = Counter()
    for second in range(1000, 1100):
        if allowance.wait(float(second)) == 0.0:
            allowance.take(float(second))
            made[second // 10] += 1
    assert (made[100], sum(made.values())) == (2, 11)
    assert allowance.wait(2000.0) == 0.0


def test_the_conditions_for_kstatus_are_among_the_reasons() -> None:
    assert {RECONCILING, STALLED} < set(ConditionType)
