"""Arrays as text: they round-trip, and damaged or hostile input is a clear error."""

import base64
import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_placement import (
    InvalidPlacementError,
    InvalidStatisticsError,
    Placement,
    PlacementError,
    balanced_placement,
)
from moe_placement.encoding import (
    decode_counts,
    decode_placement,
    encode_counts,
    encode_placement,
    unpacks_to_more,
)


@given(st.integers(0, 4), st.integers(1, 20), st.integers(1, 5))
def test_placements_round_trip(layers: int, experts: int, shards: int) -> None:
    placement = balanced_placement(layers, experts, [experts] * shards)
    assert decode_placement(encode_placement(placement)) == placement


def test_a_large_placement_is_compact() -> None:
    placement = balanced_placement(58, 256, [9] * 32)
    assert len(encode_placement(placement)) < 40_000


def packed(header: object, body: bytes = b"") -> str:
    return "p1." + base64.b64encode(zlib.compress(json.dumps(header).encode() + b"\n" + body)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        None,
        b"p1.",
        "p2.AAAA",
        "p1.not base64",
        "p1." + base64.b64encode(b"not zlib").decode(),
        packed([1, 2]),
        packed({"layers": 1, "shardSlots": [2]}),
        packed({"layers": 1, "shardSlots": [2], "experts": 2}, b"\0\0"),
        packed({"layers": -1, "shardSlots": [2], "experts": 2}, b"\0\0\0\0"),
        packed({"layers": 1, "shardSlots": [2], "experts": 2}, b"\0\0\0\0"),
        packed({"layers": 10**12, "shardSlots": [2], "experts": 2}),
        packed({"layers": 1, "shardSlots": [2], "experts": 10**14}, b"\0\0\1\0"),
        packed({"layers": 0, "shardSlots": [2], "experts": 10**14}),
        packed({"layers": 1, "shardSlots": [20_000] + [0] * 40_000, "experts": 20_000}, b"\0\0" * 20_000),
        packed({"layers": float("inf"), "shardSlots": [2], "experts": 2}),
        packed({"layers": 1, "shardSlots": [2], "experts": float("inf")}, b"\0\0\1\0"),
        packed({"layers": 1, "shardSlots": [1e300], "experts": 2}, b"\0\0\1\0"),
        "p1." + base64.b64encode(zlib.compress(b"[" * 100_000 + b"\n")).decode(),
    ],
)
def test_damaged_placements_are_refused(text: Any) -> None:
    with pytest.raises(InvalidPlacementError):
        decode_placement(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 1.9}, "layers is 1.9; it must be a whole number from 0"),
        ({"layers": True}, "layers is True"),
        ({"experts": 0}, "experts is 0; it must be a whole number from 1 to 32767"),
        ({"experts": "2"}, "experts is '2'"),
        ({"shardSlots": [2.9]}, r"shardSlots\[0\] is 2.9"),
        ({"shardSlots": "2"}, "shardSlots is '2'; it must be a list"),
    ],
)
def test_headers_are_whole_numbers(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=f"damaged placement: {message}"):
        decode_placement(packed({"layers": 1, "shardSlots": [2], "experts": 2} | change, b"\0\0\1\0"))


@given(st.text(max_size=60))
def test_any_text_is_a_placement_or_a_clear_error(text: str) -> None:
    with pytest.raises(PlacementError):
        decode_placement("p1." + text)


def test_a_bomb_does_not_unpack() -> None:
    bomb = "p1." + base64.b64encode(zlib.compress(b"\0" * 100_000_000, 9)).decode()
    with pytest.raises(InvalidPlacementError, match="damaged placement"):
        decode_placement(bomb)


@given(st.lists(st.lists(st.integers(0, 2**32 - 1), min_size=3, max_size=3), min_size=1, max_size=5))
def test_counts_round_trip(rows: list[list[int]]) -> None:
    counts = np.array(rows, dtype=np.int64)
    assert (decode_counts(encode_counts(counts), *counts.shape) == counts).all()


@pytest.mark.parametrize(
    ("counts", "message"),
    [([[1, -2]], "counts hold -2"), ([[1.5]], "counts must be integers"), ([1], r"counts must be \[rows, columns\]")],
)
def test_what_are_no_counts_is_refused(counts: Any, message: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=message):
        encode_counts(counts)
    with pytest.raises(InvalidPlacementError, match="placement is"):
        encode_placement(counts)


def test_counts_beyond_32_bits_saturate() -> None:
    assert decode_counts(encode_counts(np.array([[2**40]])), 1, 1)[0, 0] == 2**32 - 1


@pytest.mark.parametrize(
    "text", [None, "!", base64.b64encode(b"x").decode(), encode_counts(np.ones((2, 2), dtype=np.int64))]
)
def test_damaged_counts_are_refused(text: Any) -> None:
    with pytest.raises(InvalidStatisticsError, match="counts"):
        decode_counts(text, 1, 3)


def test_a_placement_is_unpacked_only_to_the_size_asked_for() -> None:
    text = encode_placement(balanced_placement(4, 16, [8, 8]))
    assert decode_placement(text, 64).shards == 2
    with pytest.raises(InvalidPlacementError, match="at most 63 slots"):
        decode_placement(text, 63)


def test_a_placement_of_which_the_header_has_no_end_is_refused() -> None:
    header = json.dumps({"layers": 1, "shardSlots": [1] + [0] * 40_000, "experts": 1}).encode()
    text = "p1." + base64.b64encode(zlib.compress(header + b"\n\0\0")).decode()
    with pytest.raises(InvalidPlacementError, match="header"):
        decode_placement(text)


def test_to_how_much_a_short_text_unpacks_is_seen_without_reading_it() -> None:
    text = encode_placement(Placement.of(np.zeros((1024, 780), dtype=np.int32), [1] * 780, 1))
    assert len(text) < 4096
    assert unpacks_to_more(text, 2 * 1024 * 780)
    assert not unpacks_to_more(text, 2 * 1024 * 780 + 65536)
    for damaged in ("", "p1.", "p1.????", "p1." + text[3:].swapcase()):
        assert not unpacks_to_more(damaged, 10)
