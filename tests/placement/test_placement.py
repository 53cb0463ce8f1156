"""Placement: what is a valid one, and its text form."""

from typing import Any

import pytest

from moe_placement import InvalidPlacementError, Placement


def two_shards(*rows: list[int]) -> Placement:
    return Placement.of(list(rows), [2, 2], experts=3)


def test_holdings_and_copies() -> None:
    placement = two_shards([0, 1, 2, 1], [2, 0, 1, -1])
    assert placement.holdings(0) == {(0, 0), (0, 1), (1, 2), (1, 0)}
    assert placement.holdings(1) == {(0, 2), (0, 1), (1, 1)}
    assert placement.copies.tolist() == [[1, 2, 1], [1, 1, 1]]
    assert placement.shard_of_slot.tolist() == [0, 0, 1, 1]


def test_two_copies_on_one_shard_count_once() -> None:
    assert Placement.of([[0, 0, 1, 2]], [2, 2], experts=3).copies.tolist() == [[1, 1, 1]]


def test_equality_is_by_content() -> None:
    assert two_shards([0, 1, 2, 1]) == two_shards([0, 1, 2, 1])
    assert hash(two_shards([0, 1, 2, 1])) == hash(two_shards([0, 1, 2, 1]))
    assert two_shards([0, 1, 2, 1]) != two_shards([1, 0, 2, 1])
    assert Placement.of([[0, 1, 2, 1]], [3, 1], 3) != two_shards([0, 1, 2, 1])


def test_slots_are_read_only() -> None:
    with pytest.raises(ValueError, match="read-only"):
        two_shards([0, 1, 2, 1]).slots[0, 0] = 2


def test_strings_round_trip() -> None:
    placement = two_shards([0, 1, 2, -1], [2, 0, 1, 1])
    assert placement.to_strings() == ["0 1 2 -", "2 0 1 1"]
    assert Placement.from_strings(placement.to_strings(), [2, 2], 3) == placement
    assert Placement.from_strings([], [2, 2], 3).layers == 0


@pytest.mark.parametrize(
    ("slots", "shard_slots", "message"),
    [
        ([0, 1, 2, 0], [2, 2], r"slots must be \[layers, total_slots\], got an array of shape \(4,\)"),
        ([[0, 1, 2], [0]], [2, 2], "slots must be one array"),
        ([[0, 1, 2, 0.5]], [2, 2], "slots must be integers .* got float64"),
        ([[0, 1, 2, 0]], [2, 3], "sum to 5, but a layer has 4 slots"),
        ([[0, 1, 2, 0]], [5, -1], r"shard_slots\[1\] is -1"),
        ([[0, 1, 2, 0]], [2, 2.5], r"shard_slots\[1\] is 2.5"),
        ([[0, 1, 2, 0]], 4, "shard_slots is 4; it must be a list"),
        ([[0, 1, 2, 3]], [2, 2], "slots run from 0 to 3; they must be within -1 .. 2"),
        ([[0, 1, 2, -2]], [2, 2], "slots run from -2 to 2"),
        ([[0, 1, 2, 2**40]], [2, 2], "slots run from 0 to 1099511627776"),
        ([[0, 1, 1, 0]], [2, 2], "layer 0: expert 2 is in no slot"),
    ],
)
def test_contradictions_are_refused(slots: Any, shard_slots: Any, message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        Placement.of(slots, shard_slots, experts=3)


@pytest.mark.parametrize("experts", [0, 1.5, -1, 32768])
def test_experts_are_a_whole_number(experts: Any) -> None:
    with pytest.raises(InvalidPlacementError, match=f"experts is {experts}"):
        Placement.of([[0]], [1], experts)


@pytest.mark.parametrize("shard", [2, -1, None])
def test_holdings_are_of_a_shard(shard: Any) -> None:
    with pytest.raises(InvalidPlacementError, match=f"shard is {shard}; it must be a whole number from 0 to 1"):
        two_shards([0, 1, 2, 1]).holdings(shard)


@pytest.mark.parametrize(
    ("text", "message"), [("0 1 x 2", "layer 0.*'x'"), ("0 1 2", "layer 0 has 3 entries, the shards have 4 slots")]
)
def test_damaged_strings_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        Placement.from_strings([text], [2, 2], 3)
    with pytest.raises(InvalidPlacementError, match="layers is '0 1 2 0'; it must be a list"):
        Placement.from_strings("0 1 2 0", [2, 2], 3)
    with pytest.raises(InvalidPlacementError, match=r"shard_slots\[1\] is 'a'"):
        Placement.from_strings([text], [2, "a"], 3)  # type: ignore[list-item]  # wrong on purpose
