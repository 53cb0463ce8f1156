"""The rebalance benchmark: what it moves, what it makes of the times of tokens, and what it says of its figures."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from benchmarks import rebalance
from benchmarks.brain.report import Row
from benchmarks.rebalancing.exchange import exchanged, new_copies
from benchmarks.rebalancing.plans import counted
from benchmarks.rebalancing.sizes import FULL, SHORT
from benchmarks.rebalancing.spans import Span, Tick, gaps_in, of_those_beside, tokens_a_cpu_second, tokens_a_second
from hypothesis import given
from hypothesis import strategies as st

from moe_placement import Placement, balanced_placement


@given(st.integers(2, 6), st.integers(1, 2), st.floats(0.05, 0.3), st.integers(0, 2**32))
def test_as_much_moves_as_is_asked_for_and_nobody_gets_more_or_less(shards, copies, share, seed) -> None:
    before = balanced_placement(3, 24, [-(-24 * copies // shards) + 1] * shards, copies)
    if (before.held.sum(axis=2) == shards).any():
        return  # every shard has everything
    after = exchanged(before, share, np.random.default_rng(seed))
    moved = int(new_copies(before, after).sum())
    assert share * before.held.sum() <= moved <= share * before.held.sum() + 2, "two at a time"
    assert (after.copies == before.copies).all()
    assert (after.held.sum(axis=1) == before.held.sum(axis=1)).all()


def test_where_nothing_can_move_it_is_said() -> None:
    with pytest.raises(ValueError, match="can trade places"):
        exchanged(Placement.of([[0, 1, 0, 1]], [2, 2], 2), 0.1, np.random.default_rng(0))


def test_tokens_are_those_of_their_time() -> None:
    ticks = [Tick(0.5, None, 1), Tick(1.0, 0.5, 2), Tick(1.5, 0.25, 1), Tick(2.0, 0.5, 4), Tick(3.0, 1.0, 1)]
    spans = [Span(0.0, 1.0), Span(1.0, 2.0), Span(2.0, 4.0)]
    assert tokens_a_second(ticks, spans) == [1.0, 3.0, 2.5]
    assert of_those_beside([3.0, 5.0, 1.0], [2.0, 4.0, 0.0, 0.0]) == [1.0, 2.5], "beside the last nothing came"
    assert tokens_a_cpu_second(ticks, [Span(0.0, 1.0, 0.5), Span(2.0, 4.0, 1.5)]) == 3.0
    assert gaps_in(ticks, spans[:1]).tolist() == []
    assert gaps_in(ticks, [spans[1], spans[2]]).tolist() == [0.5, 0.25, 0.5, 1.0]


@pytest.fixture
def figure(monkeypatch) -> list:
    """A module in the place of figure 1; the list gets the sizes that it is measured at."""
    asked: list = []
    module = ModuleType("figure_exactness")

    def rows(sizes):
        asked.append(sizes)
        return [Row(1, "reached", 0, 0), Row(1, "not reached", sizes.migrations, 1), Row(1, "told", 5)]

    module.rows = rows
    monkeypatch.setitem(sys.modules, "benchmarks.rebalancing.figure_exactness", module)
    return asked


def test_every_figure_has_its_module() -> None:
    for name in rebalance.FIGURES.values():
        assert find_spec(f"benchmarks.rebalancing.figure_{name}"), name


@pytest.mark.parametrize(
    ("accepted", "refused", "reached"),
    [(100, 20, [True, True]), (99, 20, [False, True]), (150, 19, [True, False]), (0, 0, [False, False])],
)
def test_of_fewer_plans_than_asked_for_a_figure_is_below_its_aim(accepted, refused, reached) -> None:
    decisions = [SimpleNamespace(accepted=True)] * accepted + [SimpleNamespace(accepted=False)] * refused
    assert [row.reached for row in counted(3, decisions, FULL)] == reached


def test_as_a_command(figure, tmp_path, capsys) -> None:
    written = tmp_path / "rebalance.json"
    assert rebalance.main(["--figures", "1", "--json", str(written)]) == 1
    assert capsys.readouterr().out.endswith("1 figures below their aim\n")
    assert [row["reached"] for row in json.loads(written.read_text())] == [True, False, True]
    assert (
        rebalance.main(["--figures", "1", "--short", "--migrations", "1", "--rates", "0.02", "3", "--rooms", "2"]) == 0
    )
    assert capsys.readouterr().out.endswith("0 figures below their aim\n")
    assert figure == [
        FULL,
        SHORT.__class__(**{**_fields(SHORT), "migrations": 1, "rates": (0.02, 3.0), "rooms": (2.0,)}),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figures", "17"], "there are no [17]"),
        (["--migrations", "0"], "'0' is no whole number from 1"),
        (["--models", "huge"], "invalid choice: 'huge'"),
        (["--rates", "0.02", "fast"], "'fast' is no speed from 0.001 to 100 Gb/s"),
        (["--rooms", "0.5"], "'0.5' is no number of slots for each expert, from 1 to 4"),
        (["--rates", "0"], "'0' is no speed from 0.001 to 100 Gb/s"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_measured(figure, arguments, message, capsys) -> None:
    with pytest.raises(SystemExit):
        rebalance.main(arguments)
    assert message in capsys.readouterr().err
    assert not figure


def _fields(sizes) -> dict:
    return {name: getattr(sizes, name) for name in sizes.__slots__}
