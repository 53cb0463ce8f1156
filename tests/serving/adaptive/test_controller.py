"""What was asked for is held as gates drift, and never at thresholds that cost more than is allowed."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement.dispatch import NO_EXPERT
from moe_serving.adaptive.controller import WINDOW_PAIRS, SavingController
from moe_serving.adaptive.curve import Curve, LossIncrease, Point
from moe_serving.adaptive.fit import Layer, thresholds
from moe_serving.adaptive.rule import left_out
from moe_serving.adaptive.thinning import Thinning

LAYERS, ROWS, K = 2, 1024, 4
CONTRASTS = st.floats(0.5, 3.0)
"""Of gates: the larger, the more of a row's weight is the strongest expert's."""


def gates(random: np.random.Generator, contrast: float, rows: int = ROWS) -> np.ndarray:
    logits = contrast * random.standard_normal((rows, 16))
    weights = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return -np.sort(-weights, axis=1)[:, :K].astype(np.float32)


@cache
def calibrated() -> Curve:
    """On traffic of contrast 1.5; percent saved costs its square."""
    random = np.random.default_rng(1)
    layers = [Layer.of(left_out(gates(random, 1.5, 4000))) for _ in range(LAYERS)]
    cost = np.ones(LAYERS)
    return Curve([
        Point(saved, tuple(thresholds(layers, cost, saved / 100)), LossIncrease(*[saved**2 * 1e-5] * 3))
        for saved in (5.0, 10.0, 20.0, 30.0, 40.0)
    ])  # fmt: skip


def saved(thinning: Thinning, contrast: float, seed: int, steps: int = 20) -> float:
    """Percent, in the second half of these steps."""
    random = np.random.default_rng(seed)
    ids = np.tile(np.arange(K), (ROWS, 1))
    skipped = 0
    for step in range(steps):
        for layer in range(LAYERS):
            kept, _ = thinning.thin(layer, ids, gates(random, contrast))
            skipped += int((kept == NO_EXPERT).sum()) if step >= steps // 2 else 0
    return 100 * skipped / ((steps - steps // 2) * LAYERS * ROWS * K)


@settings(max_examples=6, deadline=None)
@given(CONTRASTS, st.floats(5, 25), st.integers(0, 1000))
def test_it_holds_what_was_asked_as_the_traffic_drifts_or_goes_as_far_as_it_may(
    drifted: float, asked: float, seed: int
) -> None:
    curve = calibrated()
    most_loss = 30**2 * 1e-5
    thinning = Thinning(curve, asked, most_loss)
    assert saved(thinning, 1.5, seed) == pytest.approx(asked, abs=1.5)
    found = saved(thinning, drifted, seed)
    if thinning.place < curve.reach(most_loss) - 1e-6:
        assert found == pytest.approx(asked, abs=1.5)
    else:
        assert found < asked + 1.5
    assert curve.loss(thinning.place).high <= most_loss + 1e-12


@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0.1, 50), st.floats(0, 50))
def test_it_never_leaves_its_bounds(parts: list[float], asked: float, most: float) -> None:
    controller = SavingController(asked, most)
    for part in parts:
        controller.note(WINDOW_PAIRS, int(part * WINDOW_PAIRS))
        assert 0 <= controller.place <= most


def test_it_moves_once_enough_pairs_are_counted() -> None:
    controller = SavingController(20.0, 40.0)
    assert not controller.note(WINDOW_PAIRS - 1, 0)
    assert controller.place == 20.0
    assert controller.note(1, 0)
    assert controller.place == 40.0
    controller.note(WINDOW_PAIRS, WINDOW_PAIRS // 5)
    assert controller.place == pytest.approx(40.0, abs=0.01)
    controller.note(WINDOW_PAIRS, WINDOW_PAIRS * 4 // 5)
    assert controller.place == pytest.approx(20.0, abs=0.01)


def test_thresholds_are_the_same_in_all_layers_of_a_step() -> None:
    """They move between two: a step's layers belong together."""
    curve = Curve([Point(40.0, (0.5, 0.5), LossIncrease(0, 0, 0))])
    thinning = Thinning(curve, 20.0, 1.0)
    ids = np.tile(np.arange(2), (WINDOW_PAIRS, 1))
    row = np.tile(np.array([[0.78, 0.22]], dtype=np.float32), (WINDOW_PAIRS, 1))
    assert [(thinning.thin(layer, ids, row)[0] == NO_EXPERT).sum() for layer in (0, 1)] == [WINDOW_PAIRS] * 2
    assert thinning.place == 20.0
    thinning.thin(0, ids, row)
    assert thinning.place < 20.0
