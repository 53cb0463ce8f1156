"""How long tokens took, from counted cells: against the plain quantiles of what went in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_contract.report import MOST_PACES
from moe_serving.directory.paces import Paces
from moe_serving.routing.steps import MOST_ROWS, MOST_SECONDS, StepCounts, cell, width


@given(st.integers(0, 2**40))
def test_a_cell_holds_what_is_up_to_a_sixteenth_above_it(value: int) -> None:
    at = cell(value)
    assert at <= value < at + width(at)
    assert cell(at) == at
    assert width(at) == 1 or width(at) <= at / 16


def counted(rows: int, seconds: list[float], tokens: int = 1) -> StepCounts:
    counts = StepCounts()
    for each in seconds:
        counts.note(rows, tokens, each)
    return counts


def test_quartiles_are_those_of_the_tokens_of_steps_of_as_many_rows() -> None:
    random, paces = np.random.default_rng(1), Paces()
    took = {rows: random.lognormal(np.log(0.002 * rows), 0.3, 2000) for rows in (1, 8, 40)}
    for rows, seconds in took.items():
        paces.add(counted(rows, seconds.tolist(), tokens=min(rows, 8)))
    told = paces.told()
    assert [(pace.rows, pace.tokens) for pace in told] == [(1, 2000), (8, 16000), (40, 16000)]
    for pace in told:
        found = (pace.lower, pace.median, pace.upper)
        assert found == pytest.approx(np.quantile(took[pace.rows], (0.25, 0.5, 0.75)), rel=0.04)
    assert paces.rows_per_step == pytest.approx((1 + 8 + 40) / 3)


def test_first_tokens_make_steps_and_no_pace() -> None:
    paces = Paces()
    paces.add(counted(300, [0.5], tokens=0))
    assert (paces.told(), paces.rows_per_step) == ((), 300.0)


def test_contexts_are_means_over_the_tokens_that_followed_another() -> None:
    paces, steps = Paces(), StepCounts()
    assert paces.context == 0.0
    steps.note(600, 0, 0.0, context=0)
    steps.note(3, 2, 0.01, context=300)
    steps.note(3, 1, 0.01, context=600)
    paces.add(steps)
    assert paces.context == 300.0
    for _ in range(20):
        paces.halve()
        assert paces.context == pytest.approx(300.0)


def test_those_with_most_tokens_are_told_and_old_ones_fade() -> None:
    paces = Paces()
    for rows in range(1, 30):
        paces.add(counted(rows, [0.01] * rows))
    assert [pace.rows for pace in paces.told()] == list(range(30 - MOST_PACES, 30))
    paces.halve()
    assert paces.told()[-1].tokens == pytest.approx(29 / 2, abs=0.5)
    assert paces.rows_per_step == pytest.approx(sum(rows * rows for rows in range(30)) / sum(range(30)))
    for _ in range(20):
        paces.halve()
    assert paces.told() == ()
    assert not paces._tokens, "no cell stays for ever"


@given(st.lists(st.tuples(st.integers(1, 10**9), st.floats(0, 1e9)), max_size=50))
def test_what_is_kept_is_bounded_whatever_is_told(steps: list[tuple[int, float]]) -> None:
    counts = StepCounts()
    for rows, seconds in steps:
        counts.note(rows, 1, seconds)
    assert all(rows <= MOST_ROWS and at <= MOST_SECONDS * 1e6 for rows, at in counts.tokens)
    paces = Paces()
    paces.add(counts)
    for pace in paces.told():
        assert pace.lower <= pace.median <= pace.upper
