"""Contents and placements, one from the other."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_objects import content, moved, small

from moe_operator.api import PlacementReason
from moe_operator.placements.content import content_of, describes, moves_between, read_placement
from moe_operator.placements.errors import InvalidContentError, NotExpressibleError
from moe_placement import Placement, balanced_placement


def test_a_content_is_read_shard_by_shard() -> None:
    placement = read_placement(small())
    assert placement.shard_slots == (3, 3)
    assert placement.experts == 4
    assert placement.slots.tolist() == [[0, 1, -1, 2, 3, 0], [3, 2, 1, 0, -1, -1]]


@pytest.mark.parametrize(
    ("fields", "reason", "said"),
    [
        (
            {"layers": ["0 1 - 2 3 0", "0 1 - 2 2 0"]},
            PlacementReason.EXPERT_MISSING,
            ["layer 1: expert 3 is in no slot", "write it into a slot"],
        ),
        (
            {"layers": ["0 1 - 2 3 0", "0 1 2 3 4 -"]},
            PlacementReason.INVALID_ENTRY,
            ["spec.content.layers[1], slot 4 (slot 1 of shard 1) is '4'", "write 0 to 3, or - for an empty slot"],
        ),
        (
            {"layers": ["0 1 - 2 3", "3 2 1 0 - -"]},
            PlacementReason.INVALID_ENTRY,
            ["spec.content.layers[0] has 5 entries; 2 shards of 3 slots need 6", "write - for an empty slot"],
        ),
        (
            {"layers": ["0 1 - 2 3 0 1"]},
            PlacementReason.INVALID_ENTRY,
            ["spec.content.layers[0] has 7 entries", "need 6"],
        ),
        (
            {"experts": 100, "shards": 1000, "slotsPerShard": 101, "layers": ["0", "1"]},
            PlacementReason.OTHER_SHAPE,
            ["2 layers x 1000 shards x 101 slotsPerShard are 202000 slots", "at most 200000: use fewer"],
        ),
    ],
)
def test_what_is_wrong_is_told_with_layer_slot_value_and_cure(
    fields: dict[str, Any], reason: PlacementReason, said: list[str]
) -> None:
    with pytest.raises(InvalidContentError) as caught:
        read_placement(small(**fields))
    assert caught.value.reason is reason
    assert [part for part in said if part not in str(caught.value)] == []


def test_what_the_patterns_refuse_is_no_expert_either() -> None:
    lenient = small().model_copy(update={"layers": ("0 1 ٢ 2 3 0", "3 2 1 0 - -")})
    with pytest.raises(InvalidContentError, match=r"layers\[0\], slot 2 \(slot 2 of shard 0\) is '\\u0662'"):
        read_placement(lenient)


@given(
    layers=st.integers(1, 3),
    experts=st.integers(1, 12),
    shards=st.integers(1, 4),
    spare=st.integers(0, 3),
    leaving=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_every_placement_of_equal_shards_comes_back(
    layers: int, experts: int, shards: int, spare: int, leaving: int, seed: int
) -> None:
    slots = -(-experts // shards) + spare
    generator = np.random.default_rng(seed)
    padded = np.concatenate([np.arange(experts), np.full(slots * shards - experts, -1)])
    rows = [generator.permutation(padded) for _ in range(layers)]
    # Shards that leave have no slots any more, and the content does not name them.
    placement = Placement.of(rows, (slots,) * shards + (0,) * leaving, experts)
    made = content_of(placement, 7, 6, "sha256:0")
    assert (made.shards, made.slots_per_shard) == (shards, slots)
    assert read_placement(made) == Placement.of(rows, (slots,) * shards, experts)
    assert describes(made, placement)
    other = Placement.of([np.roll(row, 1) for row in rows], (slots,) * shards, experts)
    assert describes(made, other) is (other == read_placement(made))


def test_a_placement_of_unequal_shards_has_no_content() -> None:
    placement = balanced_placement(1, 4, (3, 2))
    with pytest.raises(NotExpressibleError, match=r"shards of \(3, 2\) slots"):
        content_of(placement, 2, 1, "sha256:0")
    assert not describes(small(), placement)


def test_one_that_is_more_than_an_object_holds_has_none() -> None:
    placement = balanced_placement(1, 20000, (20000,))
    with pytest.raises(NotExpressibleError, match="more than an ExpertPlacement holds: layers"):
        content_of(placement, 2, 1, "sha256:0")


def test_moves_are_the_copies_that_shards_do_not_hold_yet() -> None:
    before = Placement.of([[0, 1, -1, 2, 3, 0]], (3, 3), 4)
    assert moves_between(None, before) == 5
    assert moves_between(before, before) == 0
    # 0 and 3 are there already, in other slots; 2 goes to shard 0 and 1 to shard 1.
    assert moves_between(before, Placement.of([[2, 0, -1, 3, 1, -1]], (3, 3), 4)) == 2
    wider = Placement.of([[0, 1, -1, 2, 3, 0, 1, 1, -1]], (3, 3, 3), 4)
    assert moves_between(before, wider) == 1


def test_a_large_content_as_text() -> None:
    body = content(moved(58, 256, 32, 9))
    assert len(body["layers"]) == 58
    assert sum(map(len, body["layers"])) < 64_000
