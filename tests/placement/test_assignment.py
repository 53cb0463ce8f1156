"""An assignment is worth as much as the best there is: SciPy's, and on small matrices that of every permutation."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from moe_placement.migration.assignment import best_assignment

FEW_VALUES = st.sampled_from([-2.0, 0.0, 0.0, 1.0, 4.25])
"""Many ties, and as in a round of a migration many zeros."""
ANY_VALUES = st.floats(-1e6, 1e6)


def worth(value: NDArray[np.float64], pairs: list[tuple[int, int]]) -> float:
    return float(sum(value[pair] for pair in pairs))


@pytest.mark.parametrize(
    ("value", "pairs"),
    [
        ([[1.0]], [(0, 0)]),
        ([[-1.0]], [(0, 0)]),
        ([[1.0, 3.0, 2.0]], [(0, 1)]),
        ([[1.0], [3.0], [2.0]], [(1, 0)]),
        # The first row must leave what is best for it.
        ([[5.0, 4.0], [5.0, 0.0]], [(0, 1), (1, 0)]),
        # And so, one after the other, all of them.
        ([[9.0, 8.0, 0.0], [9.0, 0.0, 7.0], [9.0, 0.0, 0.0]], [(0, 1), (1, 2), (2, 0)]),
        # Fewer columns than rows: the least worth goes without.
        ([[-1.0, -9.0], [-9.0, -9.0], [-9.0, -2.0]], [(0, 0), (2, 1)]),
    ],
)
def test_the_pairs_worth_most(value: list[list[float]], pairs: list[tuple[int, int]]) -> None:
    assert best_assignment(np.array(value)) == pairs


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_nothing_is_paired_with_nothing(shape: tuple[int, int]) -> None:
    assert best_assignment(np.zeros(shape)) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_only_finite_values_are_taken(bad: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        best_assignment(np.array([[0.0, 1.0], [bad, 2.0]]))


@given(arrays(np.float64, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=FEW_VALUES | ANY_VALUES))
@settings(max_examples=300)
def test_as_good_as_scipy(value: NDArray[np.float64]) -> None:
    pairs = best_assignment(value)
    rows, columns = zip(*pairs, strict=True)
    assert len(pairs) == min(value.shape) == len(set(rows)) == len(set(columns))
    assert pairs == sorted(pairs)
    best = float(value[linear_sum_assignment(value, maximize=True)].sum())
    assert worth(value, pairs) == pytest.approx(best, rel=1e-9, abs=1e-6)


@given(arrays(np.float64, (4, 4), elements=st.integers(-3, 3).map(float)))
def test_no_permutation_is_better(value: NDArray[np.float64]) -> None:
    best = max(worth(value, list(enumerate(order))) for order in permutations(range(4)))
    assert worth(value, best_assignment(value)) == best


@pytest.mark.parametrize("shards", [64, 256])
def test_as_good_as_scipy_on_what_rounds_look_like(shards: int) -> None:
    random = np.random.default_rng(shards)
    urgent = 2.0 * (random.random(shards) < 0.2) + random.random(shards)
    value = np.where(random.random((shards + 1, shards)) < 0.1, 4.0 + urgent, 0.0)
    best = float(value[linear_sum_assignment(value, maximize=True)].sum())
    assert worth(value, best_assignment(value)) == pytest.approx(best)
