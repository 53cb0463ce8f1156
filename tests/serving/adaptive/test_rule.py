"""Which pairs of a row are kept, against the rule said row by row."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from moe_placement.dispatch import NO_EXPERT
from moe_serving.adaptive.rule import Experts, Weights, left_out, thin


@st.composite
def chosen(draw: st.DrawFn) -> tuple[Experts, Weights]:
    """Rows of different experts with weights as gates make them, in any order, of any sum."""
    rows, k = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    ids = np.array([draw(st.permutations(range(8)))[:k] for _ in range(rows)], dtype=np.int64)
    weights = draw(arrays.arrays(np.float32, (rows, k), elements=st.floats(0, 4, width=32)))
    return ids, weights


thresholds = st.floats(0.5, 1)


@given(chosen(), thresholds)
def test_a_row_keeps_its_strongest_expert_and_the_sum_of_its_weights(
    rows: tuple[Experts, Weights], threshold: float
) -> None:
    ids, weights = rows
    kept, scaled = thin(ids, weights, threshold)
    for row in range(len(ids)):
        left = {int(expert): float(weight) for expert, weight in zip(kept[row], scaled[row], strict=True)}
        strongest = int(ids[row, int(weights[row].argmax())])
        assert strongest in left
        assert np.isclose(scaled[row].sum(dtype=np.float64), weights[row].sum(dtype=np.float64), rtol=1e-5)
        assert set(left) - {NO_EXPERT} <= set(ids[row].tolist())


@given(chosen(), thresholds)
def test_as_few_are_kept_as_reach_the_threshold(rows: tuple[Experts, Weights], threshold: float) -> None:
    """Fewer would not reach it, and all that are kept are stronger than those that are not."""
    ids, weights = rows
    kept, _ = thin(ids, weights, threshold)
    for row in range(len(ids)):
        mine = np.isin(ids[row], kept[row])
        before = weights[row].astype(np.float64)
        total = before.sum()
        assert before[mine].sum() >= threshold * total * (1 - 1e-12)
        if mine.sum() > 1 and threshold < 1:
            assert before[mine].sum() - before[mine].min() < threshold * total or total == 0
        if not mine.all():
            assert before[mine].min() >= before[~mine].max()


@given(chosen(), thresholds)
def test_scaled_weights_keep_their_proportions(rows: tuple[Experts, Weights], threshold: float) -> None:
    ids, weights = rows
    kept, scaled = thin(ids, weights, threshold)
    for row in range(len(ids)):
        before = dict(zip(ids[row].tolist(), weights[row].tolist(), strict=True))
        pairs = [(before[int(e)], float(w)) for e, w in zip(kept[row], scaled[row], strict=True) if e != NO_EXPERT]
        assert all(b == 0 or np.isclose(a / b, pairs[0][1] / pairs[0][0], rtol=1e-5) for b, a in pairs if pairs[0][0])


@given(chosen(), thresholds)
def test_what_is_left_out_is_foretold(rows: tuple[Experts, Weights], threshold: float) -> None:
    ids, weights = rows
    parts = left_out(weights)
    if np.isclose(parts, 1 - threshold, atol=1e-9).any():
        return  # rounding decides
    kept, _ = thin(ids, weights, threshold)
    skipped = (kept == NO_EXPERT).sum(axis=1)
    assert skipped.tolist() == ((parts <= 1 - threshold) & (threshold < 1)).sum(axis=1).tolist()


@pytest.mark.parametrize(
    ("weights", "threshold", "kept", "scaled"),
    [
        ([0.75, 0.25], 0.7, [0, NO_EXPERT], [1.0, 0.0]),
        ([0.75, 0.25], 0.8, [0, 1], [0.75, 0.25]),
        ([0.25, 0.75], 0.7, [1, NO_EXPERT], [1.0, 0.0]),
        ([3.0, 1.0], 0.7, [0, NO_EXPERT], [4.0, 0.0]),  # gates of some families do not add up to 1
        ([0.5, 0.25, 0.125, 0.125], 0.75, [0, 1, NO_EXPERT, NO_EXPERT], [2 / 3, 1 / 3, 0, 0]),
        ([0.125, 0.5, 0.25, 0.125], 0.8, [1, 2, 0, NO_EXPERT], [4 / 7, 2 / 7, 1 / 7, 0]),
        ([0.5, 0.5], 0.5, [0, NO_EXPERT], [1.0, 0.0]),
        ([1.0], 0.5, [0], [1.0]),
        ([0.0, 0.0], 0.5, [0, 1], [0.0, 0.0]),
        ([float("nan"), 0.5], 0.5, [0, 1], [float("nan"), 0.5]),
        ([float("inf"), 0.5], 0.5, [0, 1], [float("inf"), 0.5]),
        ([0.9, -0.1], 0.5, [0, 1], [0.9, -0.1]),
    ],
)
def test_rows(weights: list[float], threshold: float, kept: list[int], scaled: list[float]) -> None:
    ids = np.arange(len(weights))[None]
    found = thin(ids, np.array([weights], dtype=np.float32), threshold)
    assert found[0].tolist() == [kept]
    np.testing.assert_allclose(found[1], np.array([scaled], dtype=np.float32))


def test_a_row_of_which_all_is_kept_keeps_its_bits_beside_one_of_which_it_is_not() -> None:
    random = np.random.default_rng(0)
    weights = -np.sort(-random.random((50, 3), dtype=np.float32), axis=1)
    ids = np.tile(np.arange(3), (50, 1))
    kept, scaled = thin(ids, weights, 0.9)
    whole = (kept != NO_EXPERT).all(axis=1)
    assert 0 < whole.sum() < 50
    assert (scaled[whole] == weights[whole]).all()


@given(chosen())
def test_at_threshold_one_the_very_same_arrays_come_back(rows: tuple[Experts, Weights]) -> None:
    kept, scaled = thin(*rows, 1.0)
    assert kept is rows[0]
    assert scaled is rows[1]
