"""Signs of life of the engine's thread, by a clock of the test's own."""

import pytest
from clock import Clock

from moe_serving.engine.life import SILENCE_S, UNKNOWN_STEP_S, SignsOfLife


@pytest.fixture
def clock() -> Clock:
    return Clock(100.0)


@pytest.fixture
def life(clock) -> SignsOfLife:
    return SignsOfLife(clock)


def step(life: SignsOfLife, clock: Clock, tokens: int, silences: list[float]) -> None:
    life.begin_step(tokens)
    for seconds in silences:
        clock.now += seconds
        life.give()
    life.end_step()


def test_who_rests_owes_no_sign(life, clock) -> None:
    clock.now += 1000
    assert (life.silence_s, life.overdue_s) == (0, 0)
    life.give()
    life.rest()
    clock.now += 1000
    assert (life.silence_s, life.overdue_s) == (0, 0)


def test_silence_between_steps_is_bounded(life, clock) -> None:
    step(life, clock, 1, [0.1])
    clock.now += SILENCE_S
    assert life.overdue_s == 0
    clock.now += 1
    assert (life.silence_s, life.overdue_s) == (SILENCE_S + 1, 1)
    life.give()
    assert life.overdue_s == 0


@pytest.mark.parametrize(
    ("before", "tokens", "allowed"),
    [
        ([], 1, UNKNOWN_STEP_S),
        ([(1, [0.1])], 1, SILENCE_S),
        ([(1, [0.1])], 512, UNKNOWN_STEP_S),
        ([(512, [3.0])], 512, 12.0),
        ([(512, [3.0])], 1, UNKNOWN_STEP_S),
        ([(300, [3.0])], 400, 12.0),  # of the same order of magnitude
        ([(512, [0.25] * 200)], 512, SILENCE_S),  # a minute of waiting for shards, with signs
    ],
)
def test_a_step_may_be_silent_for_as_long_as_its_size_needs(life, clock, before, tokens, allowed) -> None:
    for earlier in before:
        step(life, clock, *earlier)
    life.begin_step(tokens)
    clock.now += allowed
    assert life.overdue_s == 0
    clock.now += 1
    assert life.overdue_s == pytest.approx(1)


def test_a_slow_time_is_forgotten(life, clock) -> None:
    step(life, clock, 8, [10.0])
    for _ in range(200):
        step(life, clock, 8, [0.01])
    life.begin_step(8)
    clock.now += SILENCE_S + 1
    assert life.overdue_s == pytest.approx(1)
