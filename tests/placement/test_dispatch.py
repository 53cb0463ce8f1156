"""Replica choice: the order of preference case by case, and what always holds."""

import importlib.util
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import moe_placement
from moe_placement import MismatchError, Placement, balanced_placement, h100_nodes
from moe_placement.dispatch import (
    LENIENCE,
    NO_EXPERT,
    NOBODY,
    WINDOW,
    CopyChooser,
    choose_copies,
    copies_of,
    copies_on,
    layer_copies,
)


def held(shards: int, *experts: list[int]) -> np.ndarray:
    table = np.zeros((len(experts), shards), dtype=bool)
    for expert, on in enumerate(experts):
        table[expert, on] = True
    return table


def visits(chosen: np.ndarray) -> float:
    return float(np.mean([len(set(row) - {NOBODY}) for row in chosen.tolist()]))


@contextmanager
def interpreted() -> Iterator[None]:
    """Choosers that choose first within do so without Numba."""
    from moe_placement import compiled, dispatch_kernel  # noqa: PLC0415 - Numba takes a second

    spec = importlib.util.spec_from_file_location("interpreted_kernel", dispatch_kernel.__file__)
    assert spec is not None and spec.loader is not None
    kernel = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "COMPILED", False)
        patch.setattr(compiled, "compiled", lambda function: function)
        patch.setattr(compiled, "inlined", lambda function: function)
        spec.loader.exec_module(kernel)
        patch.setattr(moe_placement, "dispatch_kernel", kernel)
        yield


@pytest.mark.parametrize(
    ("experts", "ids", "home", "chosen"),
    [
        # Two nodes of two shards: 0 1 | 2 3.
        ([[3], [0, 3]], [0, 1], 0, [3, 0]),  # the home shard is visited anyway, so is shard 3, which has a pair already
        ([[2], [0, 2]], [0, 1], None, [2, 2]),  # a visited shard before any other
        ([[2], [0, 3]], [0, 1], None, [2, 3]),  # then a visited node
        ([[0, 2]], [0], 3, [2]),  # the home node needs no network
        ([[0], [3]], [0, NO_EXPERT], None, [0, NOBODY]),
        ([[0, 1], []], [0, 1], None, [0, NOBODY]),  # nobody holds it
        ([[0], []], [0, 1], None, [0, NOBODY]),  # the same where there is no choice at all
        ([[0, 1], [1, 2], [2, 3]], [0, 1, 2], None, [1, 2, 2]),  # two visits instead of three
    ],
)
def test_preferences(experts: list[list[int]], ids: list[int], home: int | None, chosen: list[int]) -> None:
    copies = copies_of(held(4, *experts), h100_nodes(2, 2, 2))
    where = None if home is None else np.array([home])
    assert choose_copies(np.array([ids]), copies, where)[0].tolist() == chosen


def test_one_node_that_covers_two_experts_beats_two_nodes() -> None:
    copies = copies_of(held(6, [0, 4], [2, 5]), h100_nodes(3, 2, 2))
    assert choose_copies(np.array([[0, 1]]), copies)[0].tolist() == [4, 5]


def test_the_shard_that_holds_most_of_a_token_comes_first() -> None:
    copies = copies_of(held(3, [0, 2], [0, 1], [0, 2], [1, 2]), h100_nodes(1, 3, 4))
    assert visits(choose_copies(np.array([[0, 1, 2, 3]]), copies)) == 2


def test_the_node_that_all_tokens_start_on_is_visited_anyway() -> None:
    copies = copies_on(np.ones((8, 3), dtype=bool), np.array([0, 1, 2]))
    assert (CopyChooser(copies, home_node=1).choose(np.arange(8)[:, None]) == 1).all()


def test_shards_of_a_node_need_not_follow_each_other() -> None:
    """Shards 0 and 2 are on one node, 1 on another, which holds two of the three experts."""
    copies = copies_on(held(3, [0, 2], [0, 1], [1, 2]), np.array([0, 1, 0]))
    assert choose_copies(np.array([[0, 1, 2]]), copies)[0].tolist() == [0, 0, 2]


def test_without_shards_nobody_is_asked() -> None:
    copies = copies_on(np.zeros((2, 0), dtype=bool), np.zeros(0, dtype=np.int64))
    assert (CopyChooser(copies).choose(np.array([[0, 1]])) == NOBODY).all()


def test_free_choices_spread_over_copies() -> None:
    copies = copies_of(held(4, [0, 1, 2, 3]), h100_nodes(1, 4, 1))
    counts = np.bincount(choose_copies(np.zeros((4000, 1), dtype=int), copies)[:, 0], minlength=4)
    assert counts.tolist() == [1000] * 4


def test_faster_shards_get_more() -> None:
    copies = copies_on(held(2, [0, 1]), np.array([0, 0]), np.array([1.0, 3.0]))
    counts = np.bincount(choose_copies(np.zeros((400, 1), dtype=int), copies)[:, 0])
    assert counts.tolist() == [100, 300]


def test_a_loaded_shard_is_avoided() -> None:
    chooser = CopyChooser(copies_of(held(2, [0], [0, 1]), h100_nodes(1, 2, 2)))
    chooser.choose(np.zeros((100, 1), dtype=int))
    assert (chooser.choose(np.ones((100, 1), dtype=int)) == 1).all()


def test_a_visited_shard_that_is_much_fuller_is_left_alone() -> None:
    chooser = CopyChooser(copies_of(held(2, [0], [0, 1]), h100_nodes(1, 2, 2)))
    chosen = np.concatenate([chooser.choose(np.array([[0, 1]])) for _ in range(400)])
    left_alone = int(np.flatnonzero(chosen[:, 1] == 1)[0])
    assert 2 * left_alone == pytest.approx(LENIENCE * WINDOW * 2 / 2, abs=3)


def test_what_was_sent_long_ago_counts_no_more() -> None:
    chooser = CopyChooser(copies_of(held(2, [0], [0, 1]), h100_nodes(1, 2, 2)))
    chooser.choose(np.zeros((10 * WINDOW, 1), dtype=int))
    assert chooser.load.tolist() == [pytest.approx(WINDOW, abs=16), 0]
    chooser.choose(np.ones((4 * WINDOW, 1), dtype=int))
    ahead = chooser.load[0] - chooser.load[1]
    assert abs(ahead) <= 1, "a change of traffic is followed within a few windows"


@st.composite
def layers(draw: st.DrawFn) -> tuple[Any, np.ndarray, np.ndarray | None, int]:
    """Copies, ids, homes and home node, of every kind that simulator and data plane have."""
    random = np.random.default_rng(draw(st.integers(0, 2**31)))
    nodes, gpus = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shards = nodes * gpus
    experts, tokens = int(random.integers(4, 32)), draw(st.integers(0, 2500))
    table = random.random((experts, shards)) < random.choice([0.1, 0.3, 0.6])
    if draw(st.booleans()):
        table[np.arange(experts), random.integers(shards, size=experts)] = True
    ids = random.random((tokens, experts)).argsort(axis=1)[:, : random.integers(1, 5)]
    ids[random.random(ids.shape) < 0.05] = NO_EXPERT
    home = random.integers(shards, size=tokens) if draw(st.booleans()) else None
    speed = random.choice([1.0, 0.5, 2.0], size=shards)
    copies = copies_on(table, random.permutation(np.arange(shards) // gpus), speed)
    return copies, ids, home, draw(st.integers(-1, nodes - 1))


@given(layers())
@settings(max_examples=60)
def test_without_numba_the_same_is_chosen(layer: tuple[Any, np.ndarray, np.ndarray | None, int]) -> None:
    copies, ids, home, home_node = layer
    first, second = CopyChooser(copies, home_node), CopyChooser(copies, home_node)
    fast = first.choose(ids, home)
    with interpreted():
        slow = second.choose(ids, home)
    assert (fast == slow).all()
    assert (first.load == second.load).all()


@given(layers(), st.integers(1, 70))
@settings(max_examples=60)
def test_how_tokens_are_divided_into_calls_makes_no_difference(
    layer: tuple[Any, np.ndarray, np.ndarray | None, int], step: int
) -> None:
    copies, ids, home, home_node = layer
    chooser = CopyChooser(copies, home_node)
    whole = CopyChooser(copies, home_node).choose(ids, home)
    for begin in range(0, len(ids), step):
        part = slice(begin, begin + step)
        assert (chooser.choose(ids[part], None if home is None else home[part]) == whole[part]).all()


@given(layers())
@settings(max_examples=60)
def test_every_pair_goes_to_a_shard_that_holds_it_or_to_nobody(
    layer: tuple[Any, np.ndarray, np.ndarray | None, int],
) -> None:
    copies, ids, home, home_node = layer
    chosen = CopyChooser(copies, home_node).choose(ids, home)
    holds = (copies.shards[ids] == chosen[:, :, None]).any(axis=2)
    nobody = copies.shards[ids, 0] == copies.n_shards
    assert (holds == ~nobody).all()
    assert ((chosen == NOBODY) == nobody).all()


def test_two_copies_save_visits() -> None:
    """What copies are for besides safety: with two of each expert a token of top-4 visits fewer shards."""
    random = np.random.default_rng(1)
    ids = random.random((200, 16)).argsort(axis=1)[:, :4]
    fan_out = {}
    for copies in (1, 2):
        placement = balanced_placement(1, 16, [4 * copies] * 4, copies)
        fan_out[copies] = visits(choose_copies(ids, layer_copies(placement, h100_nodes(1, 4, 8), 0)))
    assert fan_out[2] < 0.85 * fan_out[1]


def test_where_there_is_nothing_to_choose_nothing_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("moe_placement.dispatch._Kernel", None)
    copies = copies_of(held(2, [1], [0]), h100_nodes(1, 2, 1))
    assert choose_copies(np.array([[0, 1]]), copies).tolist() == [[1, 0]]


@pytest.mark.parametrize("wrong", [2, -2, 2**40])
def test_an_id_that_is_no_experts_is_refused(wrong: int) -> None:
    """Compiled code would read on beyond the table."""
    copies = copies_of(held(2, [0, 1], [0]), h100_nodes(1, 2, 2))
    ids = np.array([[0, 1], [1, wrong]])
    for context in (nullcontext, interpreted):
        with context(), pytest.raises(MismatchError, match=f"pair 3 asks for expert {wrong}; the layer has 2"):
            choose_copies(ids, copies)


def test_read_only_ids_are_taken() -> None:
    ids = np.array([[0, 1]], dtype=np.int32)
    ids.flags.writeable = False
    copies = copies_of(held(2, [0, 1], [0]), h100_nodes(1, 2, 2))
    assert choose_copies(ids, copies).tolist() == [[0, 0]]


def test_another_cluster_is_refused() -> None:
    with pytest.raises(MismatchError, match="2 shards, the topology 4"):
        layer_copies(Placement.of([[0, 1]], [1, 1], 2), h100_nodes(1, 4, 1), 0)


@pytest.mark.parametrize("layer", [1, -1, 0.5])
def test_another_layer_is_refused(layer: Any) -> None:
    with pytest.raises(MismatchError, match=f"layer is {layer}; it must be a whole number from 0 to 0"):
        layer_copies(Placement.of([[0, 1]], [1, 1], 2), h100_nodes(1, 2, 1), layer)
