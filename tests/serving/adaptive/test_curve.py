"""Between what was measured: along straight lines, and never beyond."""

import pytest

from moe_serving.adaptive.curve import Curve, LossIncrease, Point

CURVE = Curve(
    [
        Point(10.0, (0.9, 1.0), LossIncrease(0.001, 0.0005, 0.002)),
        Point(30.0, (0.7, 0.8), LossIncrease(0.005, 0.004, 0.008)),
    ]
)


@pytest.mark.parametrize(
    ("saved", "thresholds", "high"),
    [(0, (1, 1), 0), (5, (0.95, 1), 0.001), (10, (0.9, 1), 0.002), (20, (0.8, 0.9), 0.005), (99, (0.7, 0.8), 0.008)],
)
def test_thresholds_and_loss(saved: float, thresholds: tuple[float, ...], high: float) -> None:
    assert CURVE.thresholds(saved).tolist() == pytest.approx(thresholds)
    assert CURVE.loss(saved).high == pytest.approx(high)


@pytest.mark.parametrize(("most", "reach"), [(0.0, 0), (0.001, 5), (0.002, 10), (0.005, 20), (0.008, 30), (1, 30)])
def test_how_much_can_be_saved_for_a_loss(most: float, reach: float) -> None:
    assert CURVE.reach(most) == pytest.approx(reach)


def test_where_a_level_seems_to_cost_less_than_one_before_the_first_bound_holds() -> None:
    curve = Curve(
        [Point(saved, (0.9,), LossIncrease(high, high, high)) for saved, high in ((10.0, 0.01), (20.0, 0.002))]
    )
    assert curve.reach(0.005) == pytest.approx(5)


def test_a_loss_in_words() -> None:
    assert str(CURVE.loss(30)) == "+0.0050 (95%: +0.0040 to +0.0080)"
