"""How busy shards are, from two reports."""

import pytest

from moe_contract.report import MOST_PACES, Pace, ShardReport
from moe_operator.autoscale.usage import Reading, median_pace, usage

SECOND = 1_000_000


def shard(index: int, busy: float, served: float, incarnation: str = "a") -> ShardReport:
    return ShardReport(
        index=index, phase="Ready", incarnation=incarnation, busy_us=int(busy * SECOND), served_us=int(served * SECOND)
    )


def reading(at: float, *shards: ShardReport, epoch: int | None = 1, paces: tuple[Pace, ...] = ()) -> Reading:
    return Reading(at, shards, epoch, paces)


def pace(rows: int, tokens: int, median: float) -> Pace:
    return Pace(rows=rows, tokens=tokens, lower=median / 2, median=median, upper=2 * median)


BEFORE = reading(100, shard(0, 10, 50), shard(1, 20, 60))
TOLD = [
    # The parts are of what the shards themselves call their time, whenever the reports were asked for.
    (reading(105, shard(0, 11, 54), shard(1, 23, 64)), (0.75, 1, 1.0)),
    (reading(105, shard(0, 14, 54), shard(1, 24, 64)), (1.0, 0, 2.0)),
    (reading(105, shard(0, 10, 54), shard(1, 20, 64)), (0.0, 0, 0.0)),
    # Too soon; a shard that has not counted on; another process; a shard that was not there; none.
    (reading(103, shard(0, 11, 54), shard(1, 23, 64)), None),
    (reading(105, shard(0, 11, 54), shard(1, 20, 60)), None),
    (reading(105, shard(0, 11, 54), shard(1, 1, 4, "b")), None),
    (reading(105, shard(0, 11, 54), shard(1, 19, 64)), None),
    (reading(105, shard(0, 11, 54), shard(1, 23, 64), shard(2, 0, 4)), None),
    (reading(105), None),
]


@pytest.mark.parametrize(("now", "told"), TOLD)
def test_the_busiest_shard(now: Reading, told: tuple[float, int, float] | None) -> None:
    found = usage(BEFORE, now)
    assert (found and (found.busiest, found.index, found.total)) == told


PEAK = (pace(1, 100, 0.01), pace(16, 9000, 0.09))
MOST = tuple(pace(rows, 1000 + rows, rows / 100) for rows in range(1, MOST_PACES + 1))
BETWEEN = [
    # Tokens that came before do not count, however many they were.
    (PEAK, PEAK, 1, None),
    (PEAK, (pace(1, 150, 0.01), PEAK[1]), 1, 0.01),
    (PEAK, (pace(1, 150, 0.01), pace(16, 9060, 0.09)), 1, 0.09),
    (PEAK, (*PEAK, pace(4, 20, 0.03)), 1, 0.03),
    ((), PEAK, 1, 0.09),
    # Of another table all of them are new; counts that were halved tell nothing.
    (PEAK, (pace(1, 10, 0.02),), 2, 0.02),
    (PEAK, (pace(1, 60, 0.01), pace(16, 4500, 0.09)), 1, None),
    # One of more rows comes among those with most tokens by a few more.
    (MOST, (pace(1, 1011, 0.01), *MOST[1:-1], pace(64, 1002, 0.64)), 1, 0.01),
]


@pytest.mark.parametrize(("before", "now", "epoch", "itl"), BETWEEN)
def test_tokens_count_that_came_in_between(
    before: tuple[Pace, ...], now: tuple[Pace, ...], epoch: int, itl: float | None
) -> None:
    first = reading(100, *BEFORE.shards, paces=before)
    found = usage(first, reading(105, shard(0, 11, 54), shard(1, 23, 64), epoch=epoch, paces=now))
    assert found
    assert found.itl == itl


@pytest.mark.parametrize(
    ("paces", "median"),
    [
        ((), None),
        ((pace(1, 0, 0.01),), None),
        ((pace(1, 10, 0.01), pace(8, 100, 0.05)), 0.05),
        ((pace(1, 100, 0.01), pace(8, 10, 0.05), pace(16, 20, 0.09)), 0.01),
        ((pace(16, 51, 0.09), pace(1, 50, 0.01)), 0.09),
    ],
)
def test_median_of_all_tokens(paces: tuple[Pace, ...], median: float | None) -> None:
    assert median_pace(paces) == median
