"""Next-layer prediction: exact where routing is a function, and in the known order where it is not."""

from typing import Any

import numpy as np
import pytest

from moe_placement import InvalidPolicyError, InvalidStatisticsError, RoutingStatistics
from moe_placement.predict import NextLayerPredictor
from moe_placement.traces import Traffic, generate_trace, split_by_prompt


def test_deterministic_routing_is_learnt() -> None:
    first = np.arange(600) % 6
    ids = np.stack([first, (first * 5 + 1) % 6], axis=1)[:, :, None]
    statistics = RoutingStatistics.of_ids(ids, 6)
    for method in ("conditional", "naive-bayes"):
        score = NextLayerPredictor(statistics, method).score(ids, 1)  # type: ignore[arg-type]  # a Literal
        assert (score.recall, score.f1) == (1.0, 1.0)


def test_lifts_beat_popularity_on_unseen_prompts() -> None:
    seen, unseen = split_by_prompt(generate_trace(Traffic(tokens=8000, layers=3, experts=32, top_k=4)))
    statistics = RoutingStatistics.of_ids(seen.ids, 32)
    recall = {
        method: NextLayerPredictor(statistics, method).score(unseen.ids, 8).recall  # type: ignore[arg-type]  # a Literal
        for method in ("popularity", "conditional", "naive-bayes")
    }
    assert recall["popularity"] < recall["conditional"] < recall["naive-bayes"]


def test_absent_experts_say_nothing() -> None:
    statistics = RoutingStatistics.of_ids(np.array([[[0], [1]], [[2], [1]]]), 3)
    assert NextLayerPredictor(statistics).guess(0, np.array([[-1]]), 1).tolist() == [[1]]


def test_one_layer_has_no_next() -> None:
    with pytest.raises(InvalidStatisticsError, match="at least 2 layers"):
        NextLayerPredictor(RoutingStatistics.of_ids(np.zeros((3, 1, 1), dtype=int), 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "oracle"}, "method is 'oracle'; it must be one of popularity, conditional, naive-bayes"),
        ({"smoothing": 0}, "smoothing is 0; it must be a finite number above 0"),
    ],
)
def test_what_is_no_predictor_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidPolicyError, match=message):
        NextLayerPredictor(RoutingStatistics.of_ids([[[0], [1]]], 3), **arguments)


@pytest.mark.parametrize(
    ("layer", "ids", "count", "message"),
    [
        (1, [[0]], 1, "layer is 1; it must be a whole number from 0 to 0"),
        (-1, [[0]], 1, "layer is -1"),
        (0, [[0]], 0, "count is 0"),
        (0, [[3]], 1, "ids run from 3 to 3; they must be within -1 .. 2"),
        (0, [[-2]], 1, "ids run from -2"),
        (0, [[1, 1]], 1, "token 0: expert 1 is chosen twice in one set"),
        (0, [[0], [0, 1]], 1, "ids must be one array"),
        (0, [0], 1, r"ids must be \[tokens, k\]"),
    ],
)
def test_guesses_need_a_layer_and_ids_of_the_model(layer: Any, ids: Any, count: Any, message: str) -> None:
    predictor = NextLayerPredictor(RoutingStatistics.of_ids([[[0], [1]]], 3))
    with pytest.raises((InvalidPolicyError, InvalidStatisticsError), match=message):
        predictor.guess(layer, ids, count)
    with pytest.raises(InvalidStatisticsError, match="ids have 1 layers, the statistics had 2"):
        predictor.score(np.zeros((1, 1, 1), dtype=int), 1)
