"""What came between two looks at statistics is told apart from what came before."""

from __future__ import annotations

import numpy as np
import pytest
from gathered_traffic import EXPERTS, LAYERS, Gathered, Ids, domains
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_operator.rebalance.proposal import MARKS
from moe_operator.rebalance.recent import Mark, since, to_plan_from
from moe_placement import RoutingStatistics


def loads(ids: Ids) -> np.ndarray:
    return np.array([np.bincount(layer.ravel(), minlength=EXPERTS) for layer in ids.swapaxes(0, 1)])


@settings(max_examples=20)
@given(
    rows=st.lists(st.integers(20, 400), min_size=3, max_size=3),
    half_life=st.sampled_from([20.0, 300.0, 3600.0]),
    seed=st.integers(0, 3),
)
def test_each_part_has_what_came_in_it(rows: list[int], half_life: float, seed: int) -> None:
    """However fast old traffic fades: all tokens are in the sample here, so each must be found in its part."""
    ids = domains(1200, seed)[0][: sum(rows)]
    first, second, third = np.split(ids, np.cumsum(rows)[:-1])
    gathered = Gathered(half_life=half_life)
    gathered.answer(first)
    one = Mark.of(gathered.seen(), gathered.now)
    gathered.answer(second)
    two = Mark.of(gathered.seen(), gathered.now)
    gathered.answer(third)
    parts = since(gathered.seen(), (one, two), gathered.now)
    assert parts is not None
    for part, came in zip(parts[1:], (second, third), strict=True):
        assert part.seconds == pytest.approx(10.0)
        assert part.sampled == len(came)
        assert np.array_equal(loads(part.statistics.sample.ids), loads(came))
        assert part.rows == pytest.approx(len(came), rel=0.1)
        mix = part.statistics.load / part.statistics.load.sum()
        assert np.allclose(mix, loads(came) / came.size, atol=0.03)


def test_replicas_that_are_merged_are_told_apart_as_one() -> None:
    """Each gathers by itself; who merges them brings all to the time of the newest."""
    ids, _ = domains(900)
    one, other = Gathered(), Gathered()
    one.answer(ids[:300])
    other.answer(ids[300:500])
    seen = one.seen()
    seen.merge(other.seen())
    mark = Mark.of(seen, one.now)
    one.answer(ids[500:800])
    other.wait(10.0)
    seen = one.seen()
    seen.merge(other.seen())
    _, part = since(seen, (mark,), one.now) or ()
    assert np.array_equal(loads(part.statistics.sample.ids), loads(ids[500:800]))


def test_nothing_came() -> None:
    ids, _ = domains(300)
    gathered = Gathered()
    gathered.answer(ids)
    mark = Mark.of(gathered.seen(), gathered.now)
    gathered.wait(60.0)
    _, part = since(gathered.seen(), (mark,), gathered.now) or ()
    assert (part.sampled, part.rows) == (0, pytest.approx(0.0, abs=1e-6))


def test_statistics_that_began_anew_are_others() -> None:
    ids, _ = domains(600)
    gathered, anew = Gathered(), Gathered()
    gathered.answer(ids[:300])
    anew.statistics = RoutingStatistics(LAYERS, EXPERTS, 2, seed=8, window_tokens=None)
    anew.answer(ids[300:])
    assert since(anew.seen(), (Mark.of(gathered.seen(), gathered.now),), anew.now) is None


def test_statistics_that_lost_a_replica_are_others() -> None:
    ids, _ = domains(600)
    one, other = Gathered(), Gathered()
    one.answer(ids[:300])
    other.statistics = RoutingStatistics(LAYERS, EXPERTS, 2, seed=8, window_tokens=None)
    other.answer(ids[300:])
    both = one.seen()
    both.merge(other.seen())
    assert since(one.seen(), (Mark.of(both, one.now),), one.now) is None


def test_statistics_of_another_shape_are_others() -> None:
    gathered = Gathered()
    gathered.answer(domains(300)[0])
    mark = Mark(gathered.now, 1.0, np.zeros((1, 1)), np.zeros(4))
    assert since(gathered.seen(), (mark,), gathered.now) is None


def test_a_plan_is_made_of_all_but_the_evidence_while_traffic_stays_as_it_is() -> None:
    lately = looked_at(*np.split(domains(1200)[0], 4))
    assert len(lately.windows) == 4
    assert len(lately.sample) == 900


def test_a_plan_is_made_of_the_newest_alone_once_traffic_changed() -> None:
    """Of the evidence its loads say that, not its sets: nothing is planned from them."""
    first, second = domains(1200)
    lately = looked_at(first[:600], first[600:], second[:300], second[300:600])
    assert not len(lately.windows), "those of before the change would be taken for surges"
    assert np.array_equal(loads(lately.sample.ids), loads(second[300:600]))
    assert np.allclose(np.diagonal(lately.pairs, axis1=1, axis2=2).sum(), lately.load.sum(), rtol=0.01)


@pytest.mark.parametrize("pause", [0.0, 200.0])
@pytest.mark.parametrize("seed", range(3))
def test_and_however_little_what_came_before_weighs_by_now(pause: float, seed: int) -> None:
    """Where hardly anything comes between two bursts, the one before is a thousandth, and says no less for that."""
    first, second = domains(600, seed)
    lately = looked_at(first[:300], first[300:], second[:300], second[300:], half_life=20.0, pause=pause)
    assert np.array_equal(loads(lately.sample.ids), loads(second[300:]))


def test_a_plan_goes_back_to_where_traffic_changed() -> None:
    first, second = domains(1200)
    lately = looked_at(first[:600], first[600:], second[:600], second[600:900], second[900:])
    assert np.array_equal(loads(lately.sample.ids), loads(second[:600]) + loads(second[900:]))


def test_a_plan_follows_the_newest_though_the_evidence_is_of_both() -> None:
    """The first look after a change comes in the midst of it."""
    first, second = domains(1200)
    mixed = np.concatenate([first[900:], second[:300]])
    lately = looked_at(first[:300], first[300:900], mixed, second[300:900])
    assert np.array_equal(loads(lately.sample.ids), loads(second[300:900]))


def test_an_old_mark_of_which_nothing_is_left_is_left_out() -> None:
    gathered = Gathered()
    other = Gathered(statistics=RoutingStatistics(LAYERS, EXPERTS, 2, seed=9, window_tokens=None))
    other.answer(domains(900)[0][:300])
    lost = Mark.of(other.seen(), other.now)
    gathered.answer(domains(900)[0][300:600])
    mark = Mark.of(gathered.seen(), gathered.now)
    gathered.answer(domains(900)[0][600:])
    parts = since(gathered.seen(), (lost, mark), gathered.now)
    assert parts is not None and len(parts) == 2
    assert since(gathered.seen(), (mark, lost), gathered.now) is None


def looked_at(*windows: Ids, half_life: float = 3600.0, pause: float = 0.0) -> RoutingStatistics:
    """What a plan is made of after these windows, each after a pause; the last but one is the evidence."""
    gathered = Gathered(half_life=half_life)
    marks = []
    for ids in windows:
        gathered.wait(pause)
        gathered.answer(ids)
        marks.append(Mark.of(gathered.seen(), gathered.now))
    parts = since(gathered.seen(), marks[-1 - MARKS : -1], gathered.now)
    assert parts is not None
    return to_plan_from(parts, gathered.seen())
