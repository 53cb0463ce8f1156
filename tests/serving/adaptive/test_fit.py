"""Thresholds that save a given part of the pairs where it costs least."""

import numpy as np
import pytest

from moe_placement.dispatch import NO_EXPERT
from moe_serving.adaptive.fit import LEAST_THRESHOLD, Layer, Probe, costs, thresholds
from moe_serving.adaptive.rule import left_out, thin

RANDOM = np.random.default_rng(0)
WEIGHTS = [RANDOM.dirichlet((contrast,) * 4, 3000).astype(np.float32) for contrast in (0.3, 1.0, 3.0)]
LAYERS = [Layer.of(left_out(weights)) for weights in WEIGHTS]
EVEN = np.ones(3)


@pytest.mark.parametrize("saved", [0.01, 0.05, 0.18, 0.3])
@pytest.mark.parametrize("cost", [(1, 1, 1), (0.05, 1, 2)])
def test_they_save_what_is_asked(saved: float, cost: tuple[float, ...]) -> None:
    found = thresholds(LAYERS, np.array(cost), saved)
    ids = np.tile(np.arange(4), (3000, 1))
    skipped = [int((thin(ids, w, t)[0] == NO_EXPERT).sum()) for w, t in zip(WEIGHTS, found, strict=True)]
    assert sum(skipped) / (3 * ids.size) == pytest.approx(saved, abs=0.001)
    assert (found >= LEAST_THRESHOLD).all()


def test_a_layer_that_minds_more_gives_less() -> None:
    cheap, dear = thresholds(LAYERS, EVEN, 0.1), thresholds(LAYERS, np.array([1, 4, 1]), 0.1)
    assert dear[1] > cheap[1]
    assert dear[0] < cheap[0]
    assert (1 - dear[1]) / (1 - dear[0]) == pytest.approx(0.5)


def test_more_than_can_be_saved_leaves_half_of_each_row() -> None:
    assert thresholds(LAYERS, EVEN, 0.9).tolist() == [LEAST_THRESHOLD] * 3


def test_costs_are_what_was_measured_by_what_was_left_out() -> None:
    bounds = [layer.bound(0.2) for layer in LAYERS]
    probes = [
        Probe(bound, cost * layer.strain(bound)) for layer, bound, cost in zip(LAYERS, bounds, (1, 2, 3), strict=True)
    ]
    assert costs(LAYERS, probes).tolist() == pytest.approx([0.5, 1, 1.5])


@pytest.mark.parametrize("loss", [0.0, -0.01])
def test_a_layer_that_seems_to_gain_is_not_believed(loss: float) -> None:
    found = costs(LAYERS, [Probe(0.2, 0.01), Probe(0.2, loss), Probe(0.2, 0.01)])
    assert 0 < found[1] < found[0]
    assert costs(LAYERS, [Probe(0.2, loss)] * 3).tolist() == [1, 1, 1]


def test_a_bound_saves_the_part_that_it_is_for() -> None:
    for layer in LAYERS:
        assert layer.skipped(layer.bound(0.1)) == pytest.approx(0.1 * layer.pairs, rel=0.01)
        assert layer.bound(1.0) <= 1 - LEAST_THRESHOLD
    assert LAYERS[0].bound(0.0) == 0.0
