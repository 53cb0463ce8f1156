"""Statistics of a replica: all of its rows, each once, whole sets, the older the less."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from clock import Clock
from routed import EXPERTS, LAYERS, sets

from moe_placement.statistics import RoutingStatistics, decode_statistics
from moe_serving.routing import gatherer
from moe_serving.routing.gatherer import WINDOW_SECONDS, Gathered, Gatherer

LOOKS = 20


def taken(gathered: Gathered | None) -> RoutingStatistics:
    assert gathered is not None
    return decode_statistics(gathered.packed)


def test_what_is_taken_is_all_that_was_added() -> None:
    parts = [sets(rows, seed) for seed, rows in enumerate((3, 5000, 1))]
    mine = Gatherer(LAYERS, EXPERTS, Clock(1000.0))
    for part in parts:
        mine.add(part)
    found = taken(mine.take())
    ids, gates = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    expected = RoutingStatistics.of_ids(ids, EXPERTS, windows=1)
    assert found.tokens == 5004
    assert (found.load == expected.load).all()
    np.testing.assert_allclose(found.pairs, expected.pairs, rtol=1e-3)
    assert (found.windows == expected.windows).all()
    known = {(row.tobytes()): gate for row, gate in zip(ids, gates, strict=True)}
    assert len(found.sample) == found.sample.capacity
    for row in found.sample.ids:
        assert row.tobytes() in known, "a sampled row has the sets of one row"
    assert np.isfinite(found.sample.gates).all()


def test_a_window_ends_after_a_time_if_it_had_traffic() -> None:
    clock = Clock(1000.0)
    mine = Gatherer(LAYERS, EXPERTS, clock)
    clock.now += 10 * WINDOW_SECONDS
    assert not mine.has_window
    assert mine.take() is None
    mine.add(sets(4))
    assert not mine.has_window
    clock.now += WINDOW_SECONDS
    assert mine.has_window
    first = mine.take()
    clock.now += 10 * WINDOW_SECONDS
    assert not mine.has_window, "nothing came since"
    mine.add(sets(4, seed=1))
    clock.now += WINDOW_SECONDS
    second = mine.take()
    assert [each.number for each in (first, second) if each] == [1, 2]
    assert len(taken(second).windows) == 2


def test_windows_are_shorter_where_looks_are_near() -> None:
    clock = Clock(1000.0)
    mine = Gatherer(LAYERS, EXPERTS, clock)
    mine.configure(10.0)
    mine.add(sets(4))
    clock.now += 1.9
    assert not mine.has_window
    clock.now += 0.1
    assert mine.has_window


def test_looks_that_follow_upon_each_other_each_find_enough_new_sets() -> None:
    """However long steady traffic has gone on; the first expert of a row tells by which look it came."""
    clock = Clock(1000.0)
    mine = Gatherer(LAYERS, LOOKS, clock)
    mine.configure(10.0)
    for look in range(LOOKS):
        for _ in range(10):
            clock.now += 1.0
            ids = np.full((400, LAYERS, 1), look, dtype=np.int16)
            mine.add((ids, np.ones(ids.shape, dtype=np.float32)))
        sample = taken(mine.take()).sample
    came = np.bincount(sample.ids[:, 0, 0], minlength=LOOKS)
    assert len(sample) == sample.capacity
    assert came[-1] == pytest.approx(1200, rel=0.15) and came[-2] == pytest.approx(848, rel=0.15)


def test_what_takes_long_to_pack_is_packed_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1000.0)
    times = iter([0.0, 1.0, 5.0, 5.0])
    monkeypatch.setattr(gatherer.time, "thread_time", lambda: next(times))
    mine = Gatherer(LAYERS, EXPERTS, clock)
    mine.add(sets(4))
    mine.take()
    mine.add(sets(4))
    clock.now += 199.0
    assert not mine.has_window
    clock.now += 2.0
    assert mine.has_window


def test_the_older_weighs_less() -> None:
    clock = Clock(1000.0)
    mine = Gatherer(LAYERS, EXPERTS, clock)
    mine.add(sets(8))
    mine.take()
    clock.now += mine.half_life
    mine.add(sets(8))
    assert taken(mine.take()).tokens == pytest.approx(12)
    clock.now += 1e9
    mine.add(sets(8))
    assert taken(mine.take()).tokens == pytest.approx(8)
    clock.now -= 1e9
    mine.add(sets(8))
    assert taken(mine.take()).tokens == pytest.approx(16), "a clock that goes back makes nothing heavier"


def test_gates_beyond_half_floats_do_no_harm() -> None:
    mine = Gatherer(LAYERS, EXPERTS, Clock(1000.0))
    ids, gates = sets(4)
    mine.add((ids, gates * np.float32(1e9)))
    assert taken(mine.take()).tokens == 4


def test_of_a_model_of_too_many_experts_nothing_is_gathered_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    mine = Gatherer(10, 4096, Clock(1000.0))
    mine.add((np.zeros((1, 10, 2), dtype=np.int16), np.zeros((1, 10, 2), dtype=np.float32)))
    assert mine.take() is None
    assert "10 layers of 4096 experts" in caplog.text
