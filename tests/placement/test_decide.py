"""Decision, verification, drift and explanation: what is accepted, what not, and that the reason is told."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_placement import (
    InvalidPolicyError,
    InvalidStatisticsError,
    Limits,
    MismatchError,
    Observed,
    Placement,
    Policy,
    RoutingStatistics,
    Topology,
    balanced_placement,
    decide,
    explain,
    h100_nodes,
    one_host,
    plan_migration,
    simulate,
    solve,
    verify,
)
from moe_placement.decision import Decision
from moe_placement.drift import DriftDetector
from moe_placement.heatmap import draw
from moe_placement.solver import Plan
from moe_placement.verification import Pace

TOPOLOGY = h100_nodes(2, 2, 9)
ACCEPTED = Decision(True, 0.1, 1.0, 0.1, 0.0, ("",))
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


@pytest.mark.parametrize("factor", [1.0, 0.4, 0.1, 1e-6])
def test_a_few_tokens_are_no_evidence(factor: float) -> None:
    few = RoutingStatistics(2, 32, 2, capacity=0)
    few.add([[[0, 1], [0, 1]], [[2, 3], [2, 3]], [[0, 2], [1, 2]]])
    few.decay(factor)
    assert not judged(few, few).accepted


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


@pytest.mark.parametrize("slots", [(18, 18, 18, 0), (18, 18, 18)])
@pytest.mark.parametrize("old", [(9, 9, 9, 9), (18, 18, 0, 9)])
def test_repairs_are_no_question_of_gain(slots: tuple[int, ...], old: tuple[int, ...]) -> None:
    """A shard drains or is gone: its copies are made elsewhere although that saves nothing."""
    current = balanced_placement(2, 32, old)
    topology = Topology((0, 0, 1, 1)[: len(slots)], slots)
    plan = solve(window(1), topology, current, Limits(workers=1))
    at_last = int(current.held[:, :, 3].sum())
    assert plan.repairs >= at_last > 0
    migration = plan_migration(current, plan.placement, topology)
    decision = decide(plan, migration, [window(2)], horizon=0, history=[ACCEPTED], policy=Policy(cooldown=9))
    assert decision.accepted
    assert f"{plan.repairs} changes, copies made and copies given up, are due" in decision.reasons[0]
    assert f"{plan.repairs} changes, copies made and copies given up, are due" in explain(plan, window(1)).text
    assert plan.before is not None and plan.after.seconds <= plan.before.seconds
    assert plan.before.shard_balance > 0  # of the shards that are left
    assert decide(plan, migration, [], horizon=0).accepted  # a shard may be lost before there is traffic


def test_an_added_shard_is_a_question_of_gain() -> None:
    current = balanced_placement(2, 32, [18, 18])
    topology = Topology((0, 0, 1), (18, 18, 18))
    plan = solve(window(1), topology, current, Limits(workers=1))
    assert plan.repairs == 0
    decision = decide(plan, plan_migration(current, plan.placement, topology), [window(2)], 100_000)
    assert decision.accepted
    assert decision.gain > 0.1


def test_a_migration_of_another_plan_is_refused() -> None:
    plan = replan(window(1, hot=6.0))
    assert plan.current is not None
    for migration in (
        plan_migration(plan.current, plan.placement, TOPOLOGY, max_transfers=plan.moved_slots - 1),
        plan_migration(plan.placement, plan.current, TOPOLOGY),
    ):
        with pytest.raises(MismatchError, match="the migration makes"):
            decide(plan, migration, [window(2)], 10)


def test_cooling_down() -> None:
    decision = judged(window(1, hot=6.0), window(2, hot=6.0), history=[ACCEPTED], policy=Policy(cooldown=2))
    assert not decision.accepted
    assert "cooling down" in decision.reasons[0]


@pytest.mark.parametrize(
    ("accepted", "cooldown", "cools"),
    [
        ([True, False, False], 5, True),
        ([True, False, False], 3, True),
        ([True, False, False], 2, False),
        ([True], 0, False),
        ([], 5, False),
    ],
)
def test_cooling_down_counts_decisions(accepted: list[bool], cooldown: int, cools: bool) -> None:
    history = [Decision(was, 0.1, 1.0, 0.1, 0.0, ("",)) for was in accepted]
    decision = judged(window(1, hot=6.0), window(2, hot=6.0), history=history, policy=Policy(cooldown=cooldown))
    assert decision.accepted is not cools


@pytest.mark.parametrize("horizon", [float("nan"), float("inf"), -1.0])
def test_a_horizon_is_a_number(horizon: float) -> None:
    plan = replan(window(1, hot=6.0))
    assert plan.current is not None
    migration = plan_migration(plan.current, plan.placement, TOPOLOGY)
    with pytest.raises(InvalidPolicyError, match="horizon is"):
        decide(plan, migration, [window(2)], horizon)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("margin", float("nan")),
        ("least_gain", -0.1),
        ("stall", "1"),
        ("halvings", 0),
        ("halvings", 1.5),
        ("cooldown", -1),
    ],
)
def test_thresholds_are_numbers(field: str, value: float) -> None:
    with pytest.raises(InvalidPolicyError, match=f"{field} is"):
        Policy(**{field: value})  # type: ignore[arg-type]  # wrong on purpose


def test_statistics_of_another_model_are_refused() -> None:
    plan = replan(window(1, hot=6.0))
    assert plan.current is not None
    migration = plan_migration(plan.current, plan.placement, TOPOLOGY)
    ids = np.zeros((10, 2, 1), dtype=int)
    others = [RoutingStatistics.of_loads(np.ones((2, 33)), 2), RoutingStatistics.of_loads(np.ones((3, 32)), 2)]
    for other in [*others, RoutingStatistics.of_ids(ids, 8)]:
        with pytest.raises(MismatchError):
            decide(plan, migration, [other], 10)
        with pytest.raises(MismatchError):
            explain(plan, other)
        with pytest.raises(MismatchError):
            draw(Path("unwritten.png"), other, plan.placement, TOPOLOGY)
    with pytest.raises(MismatchError, match="of different models"):
        decide(plan, migration, [window(2), RoutingStatistics.of_ids(ids, 32)], 10)


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
    assert "Surges are not known and have no price: it takes two windows" in explained.text


def test_an_explanation_names_the_layers_that_a_time_limit_left_out() -> None:
    seen = RoutingStatistics.of_loads(np.ones((6, 32)), 2)
    plan = solve(seen, TOPOLOGY, limits=Limits(time_limit=1e-9))
    assert "the search of 6 of 6 layers (0-5) was cut short or not begun" in explain(plan, seen).text
    some = replace(plan, left_out=(0, 1, 2, 4))
    assert not some.complete
    assert "the search of 4 of 6 layers (0-2, 4) was" in explain(some, seen).text
    assert "time limit" not in explain(replace(plan, left_out=()), seen).text


def reason_of(current: list[int], new: list[int], load: list[float], topology: Topology) -> str:
    """The reason of the only move."""
    placements = [Placement.of([row], topology.shard_slots, len(load)) for row in (current, new)]
    figures = simulate(np.zeros((0, 1, 1), dtype=int), placements[1], topology)
    plan = Plan(placements[1], placements[0], topology, placements[0], figures, figures, left_out=(), seconds=0.0)
    (move,) = explain(plan, RoutingStatistics.of_loads([load])).moves
    return move.reason


def test_a_move_is_given_the_reason_that_holds() -> None:
    host = one_host(2, 3)
    assert reason_of([0, 1, 2, 3, -1, -1], [0, 1, -1, 3, 2, -1], [3, 2, 2, 1], host) == (
        "evens out load: the shard it leaves carried 1.75 of its part, the one it joins 0.25"
    )
    assert reason_of([0, 1, -1, 2, 3, -1], [0, -1, -1, 2, 3, 1], [1, 1, 9, 9], host).startswith("part of a larger exch")
    assert reason_of([0, 1, -1, 2, 3, -1], [0, 1, 2, 2, 3, -1], [1, 1, 9, 9], host).startswith("a further copy")
    drained = Topology((0, 0, 0), (3, 2, 0))
    current = Placement.of([[0, 1, -1, 2, -1, 3]], [3, 2, 1], 4)
    new = Placement.of([[0, 1, 3, 2, -1]], drained.shard_slots, 4)
    figures = simulate(np.zeros((0, 1, 1), dtype=int), new, drained)
    for topology, target in ((drained, new), (Topology((0, 0), (3, 2)), Placement.of(new.slots, [3, 2], 4))):
        plan = Plan(target, current, topology, target, figures, figures, left_out=(), seconds=0.0)
        (move,) = explain(plan, RoutingStatistics.of_loads([[1, 1, 1, 1]])).moves
        assert move.reason == "the shard it leaves has no slots any more"


@pytest.mark.parametrize(
    ("after", "keep"),
    [
        (Observed(5000, 3.0, 1.5, 0.95), True),
        (Observed(5000, 3.0, 2.0, 0.80), False),
        # All nodes are visited as often: what shards are visited decides.
        (Observed(5000, 2.5, 2.0, 0.95), True),
        (Observed(5000, 3.5, 2.0, 0.95), False),
        (Observed(5000, 3.5, 1.5, 0.95), True),
    ],
)
def test_verification(after: Observed, keep: bool) -> None:
    verdict = verify(Observed(5000, 3.0, 2.0, 0.95), after)
    assert verdict.keep is keep
    assert verdict.reasons


def paced(
    *paces: tuple[int, float, float], spread: float = 0.05, rate: float = 100.0, fan_out: float = 3.0
) -> Observed:
    """Rows of a step, tokens and median milliseconds; quartiles are ``spread`` away."""
    told = tuple(
        Pace(rows, tokens, *(took * factor / 1000 for factor in (1 - spread, 1, 1 + spread)))
        for rows, tokens, took in paces
    )
    return Observed(5000, fan_out, 0.0, 0.95, told, rate)


@pytest.mark.parametrize(
    ("before", "after", "slower", "said"),
    [
        (paced((8, 900, 30)), paced((8, 900, 45)), True, "a token took 30 -> 45 ms (+50.0%) in steps of as many rows,"),
        (paced((8, 900, 30)), paced((8, 900, 31)), False, "30 -> 31 ms (+3.3%)"),
        (paced((8, 900, 30)), paced((8, 900, 20)), False, "30 -> 20 ms (-33.3%)"),
        # What noise does: times of either side are spread, and overlap.
        (paced((8, 900, 30), spread=0.4), paced((8, 900, 45), spread=0.4), False, "30 -> 45 ms (+50.0%)"),
        (paced((8, 900, 30), spread=0.05), paced((8, 900, 45), spread=0.4), False, "+50.0%"),
        # Twice the load: larger steps take longer, and steps of as many rows do not.
        (paced((8, 900, 30), (16, 500, 50)), paced((16, 900, 51)), False, "50 -> 51 ms"),
        (paced((8, 900, 30)), paced((16, 900, 50)), None, "0 tokens came in steps of as many rows on either side"),
        (
            paced((8, 900, 30)),
            paced((8, 499, 60)),
            None,
            "499 tokens came in steps of as many rows on either side, 500",
        ),
        # As many rows in a step, and more processes that ask.
        (paced((8, 900, 30)), paced((8, 900, 60), rate=200), None, "200 rows a second came, and 100 before"),
        (paced((8, 900, 30), rate=0), paced((8, 900, 60), rate=200), True, "+100.0%"),
        # One size of step may be slower: all that are known decide, by their tokens.
        (paced((1, 100, 10), (8, 900, 30)), paced((1, 100, 20), (8, 900, 30)), False, "a token took"),
        (paced((1, 900, 10), (8, 900, 30)), paced((1, 900, 20), (8, 900, 60)), True, "17.3 -> 34.6 ms (+100.0%)"),
        (Observed(5000, 3.0, 0.0, 0.95), paced((8, 900, 60)), None, ""),
    ],
)
def test_latency_guards_against_harm_at_equal_load(
    before: Observed, after: Observed, slower: bool | None, said: str
) -> None:
    verdict = verify(before, after)
    assert (verdict.slower, verdict.latency is None) == (bool(slower), slower is None)
    assert verdict.keep is not bool(slower)
    assert said in "; ".join(verdict.reasons)


def test_latency_alone_never_speaks_for_a_move() -> None:
    faster = paced((8, 900, 10), fan_out=3.1)
    assert not verify(paced((8, 900, 30)), faster).keep
    assert verify(paced((8, 900, 30)), paced((8, 900, 10))).score == 0


@given(st.floats(0.01, 0.6), st.integers(0, 2**32))
def test_noise_is_no_worsening(spread: float, seed: int) -> None:
    """Steps of one machine, however spread, with spells of other work on it that last for some of them."""
    random = np.random.default_rng(seed)

    def side() -> Observed:
        took = 0.03 * np.exp(spread * random.normal(size=900)) * np.repeat(1 + spread * random.random(9), 100)
        return Observed(5000, 3, 0, 0.9, (Pace(8, 900, *np.quantile(took, (0.25, 0.5, 0.75)).tolist()),), 100)

    assert not verify(side(), side()).slower


def test_verification_on_one_node_goes_by_fan_out() -> None:
    assert not verify(Observed(5000, 2.0, 0.0, 0.9), Observed(5000, 2.4, 0.0, 0.9)).keep


def test_verification_does_not_bear_remote_copies_where_none_were() -> None:
    assert not verify(Observed(5000, 2.0, 0.0, 0.9), Observed(5000, 2.0, 3.0, 0.9)).keep
    assert verify(Observed(5000, 2.0, 0.0, 0.9), Observed(5000, 2.0, 0.0, 0.9)).keep


def test_verification_needs_traffic_and_finite_figures() -> None:
    with pytest.raises(InvalidStatisticsError, match="too few tokens"):
        verify(Observed(10, 1, 1, 1), Observed(5000, 1, 1, 1))
    with pytest.raises(InvalidStatisticsError, match="finite"):
        Observed(float("nan"), 1, 1, 1)
    with pytest.raises(InvalidStatisticsError, match="balance is 2"):
        Observed(5000, 1, 1, 2)
    with pytest.raises(InvalidStatisticsError, match="pace median is inf"):
        Pace(1, 1, 1.0, float("inf"), 1.0)
    fine = Observed(5000, 1, 1, 1)
    for name, value in (("harm", float("nan")), ("tolerance", -1), ("least_tokens", float("inf"))):
        with pytest.raises(InvalidPolicyError, match=f"{name} is {value}"):
            verify(fine, fine, **{name: value})  # type: ignore[arg-type]  # wrong on purpose


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
    with pytest.raises(MismatchError):
        DriftDetector(np.ones((1, 4))).rebase(np.ones((1, 5)))


@pytest.mark.parametrize(
    ("field", "value"), [("factor", float("nan")), ("factor", 0), ("patience", 0), ("patience", 1.5)]
)
def test_drift_is_told_by_numbers(field: str, value: object) -> None:
    with pytest.raises(InvalidPolicyError, match=f"{field} is {value!r}"):
        DriftDetector(np.ones((1, 4)), **{field: value})  # type: ignore[arg-type]  # wrong on purpose
