"""Decision, verification, drift and explanation: what is accepted, what not, and that the reason is told."""

import numpy as np
import pytest

from moe_placement import (
    InvalidStatisticsError,
    Limits,
    MismatchError,
    Observed,
    Policy,
    RoutingStatistics,
    decide,
    explain,
    h100_nodes,
    plan_migration,
    solve,
    verify,
)
from moe_placement.decide import Decision
from moe_placement.drift import DriftDetector
from moe_placement.solve import Plan

TOPOLOGY = h100_nodes(2, 2, 9)
LIMITS = Limits(max_moved_slots=16, workers=1)


def window(seed: int, hot: float = 1.0) -> RoutingStatistics:
    rate = np.ones((2, 32))
    rate[:, :4] = hot
    random = np.random.default_rng(seed)
    return RoutingStatistics.of_loads([random.multinomial(20_000, layer / layer.sum()) for layer in rate], 2)


def replan(seen: RoutingStatistics) -> Plan:
    current = solve(window(0), TOPOLOGY, limits=Limits(workers=1)).placement
    return solve(seen, TOPOLOGY, current, LIMITS)


def judged(seen: RoutingStatistics, evidence: RoutingStatistics, **more: object) -> Decision:
    plan = replan(seen)
    assert plan.current is not None
    migration = plan_migration(plan.current, plan.placement, TOPOLOGY)
    return decide(plan, migration, [evidence], 100_000, **more)  # type: ignore[arg-type]  # names are the test's


def test_noise_is_not_followed() -> None:
    for seed in range(1, 6):
        assert not judged(window(seed), window(seed + 100)).accepted


def test_a_shift_is_followed_once_evidence_shows_it() -> None:
    decision = judged(window(1, hot=6.0), window(2, hot=6.0))
    assert decision.accepted
    assert decision.saved > 1.3 * decision.price
    assert "saves" in decision.reasons[0]


def test_a_shift_that_only_the_plan_saw_is_not() -> None:
    decision = judged(window(1, hot=6.0), window(2))
    assert not decision.accepted
    assert "below the least that counts" in decision.reasons[0]


def test_a_short_horizon_does_not_pay() -> None:
    plan = replan(window(1, hot=6.0))
    assert plan.current is not None
    decision = decide(plan, plan_migration(plan.current, plan.placement, TOPOLOGY), [window(2, hot=6.0)], horizon=10)
    assert not decision.accepted
    assert "does not pay for the move" in decision.reasons[0]


def test_cooling_down() -> None:
    earlier = [Decision(True, 0.1, 1.0, 0.1, 0.0, ("",))]
    decision = judged(window(1, hot=6.0), window(2, hot=6.0), history=earlier, policy=Policy(cooldown=2))
    assert not decision.accepted
    assert "cooling down" in decision.reasons[0]


def test_evidence_is_needed() -> None:
    with pytest.raises(InvalidStatisticsError, match="no evidence"):
        judged(window(1), RoutingStatistics(2, 32, 2))
    first = solve(window(0), TOPOLOGY, limits=Limits(workers=1))
    with pytest.raises(MismatchError, match="no alternative"):
        decide(first, plan_migration(first.placement, first.placement, TOPOLOGY), [window(1)], 10)


def test_an_explanation_has_figures_and_the_largest_moves() -> None:
    seen = window(1, hot=6.0)
    plan = replan(seen)
    assert plan.current is not None
    explained = explain(plan, seen, plan_migration(plan.current, plan.placement, TOPOLOGY))
    assert f"Moving {plan.moved_slots} copies" in explained.text
    assert 1 <= len(explained.moves) <= 5
    assert [m.load for m in explained.moves] == sorted((m.load for m in explained.moves), reverse=True)
    still = solve(seen, TOPOLOGY, plan.current, Limits(max_moved_slots=0))
    assert explain(still, seen).text.startswith("Nothing to move")
    assert "A first placement" in explain(solve(seen, TOPOLOGY), seen).text


@pytest.mark.parametrize(
    ("after", "keep"),
    [
        (Observed(5000, 3.0, 1.5, 0.95), True),
        (Observed(5000, 3.0, 2.0, 0.80), False),
        (Observed(5000, 3.0, 1.5, 0.95, latency=0.05), False),
        (Observed(5000, 3.0, 2.0, 0.95, latency=0.031), True),
    ],
)
def test_verification(after: Observed, keep: bool) -> None:
    verdict = verify(Observed(5000, 3.0, 2.0, 0.95, latency=0.03), after)
    assert verdict.keep is keep
    assert verdict.reasons


def test_verification_on_one_node_goes_by_fan_out() -> None:
    assert not verify(Observed(5000, 2.0, 0.0, 0.9), Observed(5000, 2.4, 0.0, 0.9)).keep


def test_verification_needs_traffic_and_finite_figures() -> None:
    with pytest.raises(InvalidStatisticsError, match="too few tokens"):
        verify(Observed(10, 1, 1, 1), Observed(5000, 1, 1, 1))
    with pytest.raises(InvalidStatisticsError, match="finite"):
        Observed(float("nan"), 1, 1, 1)


def test_drift_fires_on_a_shift_and_not_on_noise() -> None:
    detector = DriftDetector(window(0).load)
    assert not any(detector.observe(window(seed).load).drifted for seed in range(1, 30))
    assert [detector.observe(window(seed, hot=1.5).load).drifted for seed in range(2)] == [False, True]
    detector.rebase(window(5, hot=1.5).load)
    assert not any(detector.observe(window(seed, hot=1.5).load).drifted for seed in range(6, 10))


def test_drift_refuses_other_shapes() -> None:
    with pytest.raises(MismatchError):
        DriftDetector(np.ones((1, 4))).observe(np.ones((1, 5)))
    with pytest.raises(InvalidStatisticsError):
        DriftDetector(np.array([[-1.0, 1.0]]))
