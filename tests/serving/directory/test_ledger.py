"""The sum of all api processes: the same whoever adds it up, in whatever order, and never less than before."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.directory.ledger import MOST_SAMPLES, Counts, Key, Ledger, check_counts, check_ledger, exact

NAMES = ["a", "b", "c", "d"]
KEYS: list[Key] = [("moe_x_total", ()), ("moe_x_total", (("code", "200"),)), ("moe_y_sum", ())]


@st.composite
def histories(draw: st.DrawFn) -> list[Ledger]:
    """Ledgers as one directory has them, one after the other, and copies that each api may have of them."""
    ledger, counted, gone = Ledger(), {name: dict.fromkeys(KEYS, 0.0) for name in NAMES}, set[str]()
    told = [ledger]
    for _ in range(draw(st.integers(0, 12))):
        name = draw(st.sampled_from(NAMES))
        if draw(st.integers(0, 3)) == 0 and name in ledger.entries:
            ledger = ledger.fold([name])
            gone.add(name)
        elif name not in gone:
            key = draw(st.sampled_from(KEYS))
            counted[name][key] += exact(draw(st.floats(0, 1e6)))
            ledger = ledger.count(name, dict(counted[name]))
        told.append(ledger)
    return told


def at_least(one: Counts, other: Counts) -> bool:
    return all(one.get(key, 0.0) >= value for key, value in other.items())


@given(histories(), st.randoms(use_true_random=False))
def test_ledgers_merge_in_any_order_and_number_to_the_latest(told: list[Ledger], chance: random.Random) -> None:
    one, other, third = (chance.choice(told) for _ in range(3))
    assert one.merge(one) == one
    assert one.merge(other) == other.merge(one)
    assert one.merge(other).merge(third) == one.merge(other.merge(third))
    heard = [*told, *chance.choices(told, k=3)]
    chance.shuffle(heard)
    merged = Ledger()
    for ledger in heard:
        before = merged.total()
        merged = merged.merge(ledger)
        assert at_least(merged.total(), before)
        assert at_least(merged.total(), ledger.total())
    assert merged == told[-1]


@given(histories())
def test_a_total_never_falls_and_loses_nothing_when_it_is_folded(told: list[Ledger]) -> None:
    for before, after in itertools.pairwise(told):
        assert at_least(after.total(), before.total())
        if after.past.size > before.past.size:
            assert after.total() == before.total()
            assert len(after.entries) == len(before.entries) - 1


def test_what_a_folded_process_still_tells_is_not_counted_twice() -> None:
    key = KEYS[0]
    ledger = Ledger().count("a", {key: 3.0}).count("b", {key: 1.0}).fold(["a"])
    assert ledger.count("a", {key: 4.0}).total() == {key: 4.0}
    assert ledger.merge(Ledger({"a": {key: 4.0}})).total() == {key: 4.0}


def test_of_ledgers_that_two_directories_folded_apart_the_own_is_kept() -> None:
    key = KEYS[0]
    both = Ledger().count("a", {key: 3.0}).count("b", {key: 1.0})
    assert both.fold(["a"]).merge(both.fold(["b"])).total() == {key: 4.0}


@given(st.lists(st.floats(0, 1e5), max_size=50), st.randoms(use_true_random=False))
def test_sums_do_not_depend_on_the_order(seconds: list[float], chance: random.Random) -> None:
    """Rounding would make a sum of fractions fall by its last digit, which Prometheus takes for a restart."""
    values = [exact(value) for value in seconds]
    there = sum(values)
    chance.shuffle(values)
    assert sum(values) == there
    assert sum(seconds) - len(seconds) / 2**20 - 1e-6 <= there <= sum(seconds) + 1e-6


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({("x", ()): float("nan")}, "x is nan"),
        ({("x", ()): -1.0}, "x is -1.0"),
        ({("x", ()): "1"}, "x is '1'"),
        ({"x": 1.0}, "'x' is no name"),
        ({("x", (("label",),)): 1.0}, "is no name"),
        ({("x" * 257, ()): 1.0}, "is no name"),
        ({("x", tuple(("l", str(i)) for i in range(9))): 1.0}, "is no name"),
        ({(f"x{i}", ()): 1.0 for i in range(MOST_SAMPLES + 1)}, "at most 1024"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_count_is_refused(counts, message) -> None:
    with pytest.raises(ValueError, match=message):
        check_counts(counts)
    with pytest.raises(ValueError, match=message):
        check_ledger(Ledger({"a": counts}), 8)


def test_a_ledger_of_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="9 entries; at most 8"):
        check_ledger(Ledger({str(i): {} for i in range(9)}), 8)
