"""Where copies come from: exact orders in tables, and that nothing waits for ever."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.directory.actions import Copies
from moe_serving.directory.sources import Site, hold_back, order_loads
from moe_serving.experts.description import CHECKPOINT, Loading, LoadOrder, Source
from moe_serving.wire.endpoint import Address


def sites(
    *nodes: str,
    near_checkpoint: bool = False,
    troubled: tuple[int, ...] = (),
    loading: Mapping[int, Loading] = MappingProxyType({}),
) -> list[Site]:
    return [
        Site(node, Address(node, b"", unix_name=str(i)), near_checkpoint, i in troubled, loading.get(i, Loading()))
        for i, node in enumerate(nodes)
    ]


def held_by(*shards: int, of: int) -> Copies:
    """One layer with one expert."""
    return np.array([[[shard in shards for shard in range(of)]]])


def names(sources: tuple[Source, ...]) -> list[str]:
    """The shards, and ``c`` for the checkpoint."""
    return ["c" if source is CHECKPOINT else str(source.unix_name) for source in sources]


@pytest.mark.parametrize(
    ("nodes", "near_checkpoint", "holders", "expected"),
    [
        ("aab", False, [1, 2], ["1", "2", "c"]),  # the same node, then another one, then the checkpoint
        ("aab", True, [1, 2], ["1", "c", "2"]),
        ("abb", True, [1, 2], ["c", "1", "2"]),  # a file of the node's own before any link
        ("abb", False, [2], ["2", "c"]),
        ("aab", False, [], ["c"]),
    ],
)
def test_the_nearest_comes_first(nodes: str, near_checkpoint: bool, holders: list[int], expected: list[str]) -> None:
    held = held_by(*holders, of=3)
    (order,) = order_loads({0: ((0, 0),)}, held, sites(*nodes, near_checkpoint=near_checkpoint))[0]
    assert names(order.sources) == expected
    assert order.urgent is (not holders)


def test_who_cannot_be_reached_is_not_asked() -> None:
    places = sites("a", "a", "a")
    places[1] = Site("a")
    orders = order_loads({0: ((0, 0),)}, held_by(1, 2, of=3), places)
    assert orders == {0: (LoadOrder(0, 0, (places[2].address, CHECKPOINT)),)}


def test_those_that_hold_it_share_the_work() -> None:
    held = np.zeros((1, 4, 4), dtype=bool)
    held[:, :, :2] = True
    keys = tuple((0, expert) for expert in range(4))
    orders = order_loads({2: keys, 3: keys}, held, sites("a", "a", "a", "a"))
    first = [names(order.sources)[0] for shard in (2, 3) for order in orders[shard]]
    assert (first.count("0"), first.count("1")) == (4, 4)


@pytest.mark.parametrize(
    ("nodes", "near_checkpoint", "troubled", "holders", "ordered"),
    [
        ("abb", False, (), [0], [1]),  # the other one is given it when it is near
        ("abb", True, (), [0], [1, 2]),  # from the checkpoint
        ("abb", False, (1,), [0], [2]),  # nobody relies on who is in trouble
        ("abb", False, (1, 2), [0], [1, 2]),
        ("abb", False, (2,), [0], [1]),
        ("abc", False, (), [0], [1, 2]),
        ("abb", False, (), [], [1, 2]),  # a node reads a file once
        ("abbb", False, (), [0, 3], [1, 2]),  # it is near already
    ],
)
def test_a_link_carries_nothing_twice(
    nodes: str, near_checkpoint: bool, troubled: tuple[int, ...], holders: list[int], ordered: list[int]
) -> None:
    load = {1: ((0, 0),), 2: ((0, 0),)}
    places = sites(*nodes, near_checkpoint=near_checkpoint, troubled=troubled)
    kept = hold_back(load, held_by(*holders, of=len(nodes)), places)
    assert [shard for shard, keys in kept.items() if keys] == ordered


@pytest.mark.parametrize(
    ("loading", "troubled", "ordered"),
    [
        ({2: Loading(((0, 0),), True)}, (), [2]),  # it is on its way to the second, whoever else wants it by now
        ({2: Loading(((0, 1), (0, 0)), True)}, (), [2]),  # it is queued there
        ({1: Loading(((0, 1), (0, 0)), True), 2: Loading(((0, 0),), True)}, (), [2]),
        ({1: Loading(((0, 0),)), 2: Loading(((0, 0),), True)}, (), [2]),  # the first has not begun it
        ({1: Loading(((0, 0),)), 2: Loading(((0, 0),))}, (), [1]),
        ({2: Loading(((0, 0),), True)}, (2,), [1, 2]),  # nobody relies on who is in trouble, nor is its work undone
        ({2: Loading(((0, 0),))}, (2,), [1]),
        ({1: Loading(((0, 0),), True), 2: Loading(((0, 0),), True)}, (), [1, 2]),  # both began it in times of trouble
    ],
)
def test_a_transfer_under_way_goes_on(
    loading: dict[int, Loading], troubled: tuple[int, ...], ordered: list[int]
) -> None:
    load = {1: ((0, 0),), 2: ((0, 0),)}
    held = np.zeros((1, 2, 3), dtype=bool)
    held[0, 0, 0] = True
    kept = hold_back(load, held, sites("a", "b", "b", troubled=troubled, loading=loading))
    assert [shard for shard, keys in kept.items() if keys] == ordered


@given(st.data())
def test_nothing_waits_for_ever(data: st.DataObject) -> None:
    """Turns in which each shard gets what it is ordered to load first, or is in trouble: all is loaded in the end."""
    shards, experts = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 4))
    nodes = data.draw(st.lists(st.sampled_from("ab"), min_size=shards, max_size=shards))
    near = data.draw(st.booleans())
    bits = st.lists(st.booleans(), min_size=experts * shards, max_size=experts * shards)
    held = np.array(data.draw(bits)).reshape(1, experts, shards)
    target = np.array(data.draw(bits)).reshape(1, experts, shards) | held
    for _ in range(experts * shards):
        if (held == target).all():
            break
        troubled = data.draw(st.integers(-1, shards - 1))
        load = {
            shard: tuple((0, int(expert)) for expert in np.flatnonzero(~held[0, :, shard] & target[0, :, shard]))
            for shard in range(shards)
        }
        kept = hold_back(load, held, sites(*nodes, near_checkpoint=near, troubled=(troubled,)))
        able = {shard: keys for shard, keys in kept.items() if keys}
        assert able, "something is missing and nobody is told to load it"
        before = held.sum()
        for shard, orders in order_loads(able, held, sites(*nodes, near_checkpoint=near)).items():
            if shard != troubled or len(able) == 1:
                held[(*orders[0].key, shard)] = True
        assert held.sum() > before
    assert (held == target).all()
