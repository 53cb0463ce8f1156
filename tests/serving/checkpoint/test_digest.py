"""The digest of an expert: the same whoever makes it, in whatever order, and of no other bytes."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_serving.checkpoint.digest import BLOCK_BYTES, COLUMNS, DIGEST_BYTES, Checksums

ROW_BYTES = 8 * COLUMNS
SIZES = [0, 1, 8, ROW_BYTES - 1, ROW_BYTES, BLOCK_BYTES - ROW_BYTES + 7, BLOCK_BYTES, 2 * BLOCK_BYTES + ROW_BYTES + 9]


def some(size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)


def digest(*matrices: np.ndarray, step: int = BLOCK_BYTES, seed: int | None = None) -> bytes:
    """Made of parts of ``step`` bytes, in order or shuffled."""
    sums = Checksums(*(len(matrix) for matrix in matrices))
    parts = [(number, at) for number, matrix in enumerate(matrices) for at in range(0, len(matrix), step)]
    if seed is not None:
        random.Random(seed).shuffle(parts)
    for number, at in parts:
        sums.add(number, at, memoryview(matrices[number][at : at + step]))
    return sums.digest()


@pytest.mark.parametrize("size", SIZES)
def test_parts_may_come_in_any_order_and_of_several_blocks(size: int) -> None:
    one, other = some(size), some(BLOCK_BYTES + 24, seed=1)
    wanted = digest(one, other)
    assert len(wanted) == DIGEST_BYTES
    assert {digest(one, other, step=BLOCK_BYTES * blocks, seed=seed) for blocks in (1, 2, 3) for seed in (1, 2)} == {
        wanted
    }


BITS = 8 * (2 * BLOCK_BYTES + ROW_BYTES + 9)


@given(st.sets(st.integers(0, BITS - 1), min_size=1, max_size=3))
def test_up_to_three_damaged_bits_are_always_seen(bits: set[int]) -> None:
    damaged = some(BITS // 8)
    wanted = digest(damaged)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    assert digest(damaged) != wanted


@given(st.data())
def test_two_bits_of_the_same_weight_are_seen_wherever_they_are(data: st.DataObject) -> None:
    """One that was set and one that was not, of words in one row or column: a sum of either alone would not see it."""
    words = np.zeros(BLOCK_BYTES // 8, dtype=np.uint64)
    first, bit = data.draw(st.integers(0, len(words) - 1)), np.uint64(1 << data.draw(st.integers(0, 63)))
    same_row = [
        word for word in range(first // COLUMNS * COLUMNS, first // COLUMNS * COLUMNS + COLUMNS) if word != first
    ]
    same_column = [word for word in range(first % COLUMNS, len(words), COLUMNS) if word != first]
    second = data.draw(st.sampled_from(same_row + same_column))
    words[first] = bit
    wanted = digest(words.view(np.uint8))
    words[first], words[second] = 0, bit
    assert digest(words.view(np.uint8)) != wanted


def test_what_is_in_another_place_is_seen() -> None:
    whole = some(3 * BLOCK_BYTES)
    wanted = digest(whole)
    for unit in (8, ROW_BYTES, BLOCK_BYTES):
        moved = whole.reshape(-1, unit).copy()
        moved[[0, 1]] = moved[[1, 0]]
        assert digest(moved.reshape(-1)) != wanted
    assert digest(np.zeros(BLOCK_BYTES, dtype=np.uint8)) != digest(np.zeros(2 * BLOCK_BYTES, dtype=np.uint8))
    assert digest(some(BLOCK_BYTES), some(BLOCK_BYTES, 1)) != digest(some(BLOCK_BYTES, 1), some(BLOCK_BYTES))
