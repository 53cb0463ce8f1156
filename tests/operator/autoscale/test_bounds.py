"""Between which numbers of shards a policy may choose, and what is wrong with its schedules."""

from datetime import UTC, datetime
from typing import Any

import pytest

from moe_operator.api.autoscaling import Autoscaling
from moe_operator.autoscale.bounds import BadScheduleError, Bounds, bounds

DAY: dict[str, Any] = {
    "cron": "0 7 * * 1-5", "duration": "12h", "timeZone": "Europe/Berlin", "minShards": 4, "maxShards": 8,
}  # fmt: skip
NIGHT: dict[str, Any] = {"cron": "0 20 * * *", "duration": "11h", "minShards": 2, "maxShards": 2}


def policy(*schedules: dict[str, Any], least: int = 2, most: int = 8) -> Autoscaling:
    return Autoscaling.model_validate({"minShards": least, "maxShards": most, "schedules": list(schedules)})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


TABLE = [
    # 2 March 2026 is a Monday; Berlin is an hour ahead.
    ("2026-03-02T05:59:59", (DAY,), Bounds(2, 8)),
    ("2026-03-02T06:00:00", (DAY,), Bounds(4, 8, 0)),
    ("2026-03-02T17:59:59", (DAY,), Bounds(4, 8, 0)),
    ("2026-03-02T18:00:00", (DAY,), Bounds(2, 8)),
    ("2026-03-01T12:00:00", (DAY,), Bounds(2, 8)),
    ("2026-03-02T06:30:00", (DAY, NIGHT), Bounds(4, 8, 0)),
    ("2026-03-02T06:30:00", (NIGHT, DAY), Bounds(2, 2, 0)),  # the first that is listed counts
    ("2026-03-02T21:00:00", (DAY, NIGHT), Bounds(2, 2, 1)),
]


@pytest.mark.parametrize(("now", "schedules", "held"), TABLE)
def test_in_force(now: str, schedules: tuple[dict[str, Any], ...], held: Bounds) -> None:
    assert bounds(policy(*schedules), at(now), None) == held


def test_a_model_bounds_them_too() -> None:
    assert bounds(policy(most=64), at("2026-03-02T12:00:00"), 16) == Bounds(2, 16)
    assert bounds(policy(least=32, most=64), at("2026-03-02T12:00:00"), 16) == Bounds(16, 16)
    assert Bounds(2, 8).clamped(9) == 8
    assert Bounds(2, 8).clamped(1) == 2


BAD = [
    (DAY | {"minShards": 1}, ["schedules[1].minShards is 1", "autoscaling.minShards, which is 2", "raise the former"]),
    (DAY | {"maxShards": 9}, ["schedules[1].maxShards is 9", "autoscaling.maxShards, which is 8", "lower the former"]),
    (DAY | {"cron": "0 7 * *"}, ["spec.experts.autoscaling.schedules[1].cron is '0 7 * *'", "4 fields"]),
    (DAY | {"cron": "0 7 31 2 *"}, ["spec.experts.autoscaling.schedules[1].cron", "Bad day-of-month"]),
    (DAY | {"timeZone": "Berlin"}, ["spec.experts.autoscaling.schedules[1].timeZone is 'Berlin'", "Europe/Berlin"]),
]


@pytest.mark.parametrize(("schedule", "words"), BAD)
def test_what_is_wrong_is_named(schedule: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadScheduleError) as refused:
        bounds(policy(DAY, schedule), at("2026-03-02T12:00:00"), None)
    for word in words:
        assert word in str(refused.value)
