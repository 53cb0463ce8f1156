"""95% intervals of a mean: they cover it about as often as they say."""

import numpy as np
import pytest

from moe_serving.adaptive.interval import loss_increase


def test_it_covers_the_mean() -> None:
    covered = 0
    for seed in range(60):
        found = loss_increase(np.random.default_rng(seed).normal(0.003, 0.01, 60))
        assert found.low < found.mean < found.high
        covered += found.low <= 0.003 <= found.high
    assert 51 <= covered <= 60


def test_it_is_the_same_each_time() -> None:
    differences = np.random.default_rng(0).normal(size=40)
    assert loss_increase(differences) == loss_increase(differences)


def test_its_width_is_that_of_the_mean() -> None:
    found = loss_increase(np.random.default_rng(0).normal(0.0, 1.0, 400))
    assert found.high - found.low == pytest.approx(2 * 1.96 / 20, rel=0.15)
