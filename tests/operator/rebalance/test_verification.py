"""Whether a placement stays, by what was counted before and since."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.api import RollbackPolicy
from moe_operator.rebalance.verification import LEAST_ROWS, MODEL_ERROR, MOST_WINDOWS, Verdict, judge
from moe_placement.verification import Observed, Pace

AUTO, ALWAYS, NEVER = RollbackPolicy.AUTO, RollbackPolicy.ALWAYS, RollbackPolicy.NEVER
KEEP, WAIT, BACK = Verdict.KEEP, Verdict.WAIT, Verdict.ROLL_BACK
UNVERIFIED, KEPT = Verdict.NOT_VERIFIED, Verdict.HARMFUL_BUT_KEPT
SLOW = "rolled back for its latency"


def seen(
    fan_out: float,
    balance: float = 0.9,
    rows: int = 10_000,
    nodes: float = 0,
    token: float | None = None,
    rate: float = 100.0,
    context: float = 0.0,
) -> Observed:
    """``token``: milliseconds of a token in steps of 8 rows, as the median of 900."""
    paces = (Pace(8, 900, 0.95e-3 * token, 1e-3 * token, 1.05e-3 * token),) if token else ()
    return Observed(rows, fan_out, nodes, balance, paces, rate, context)


BASE, PACED, LONG = seen(2.0), seen(2.0, token=10), seen(2.0, token=10, context=1000)

CASES = [
    # before, after, windows waited, by a person, policy, verdict, what is said
    (None, None, 1, False, AUTO, WAIT, "0 tokens were counted before and 0 since, 1000 of either are needed"),
    (BASE, None, 2, False, AUTO, WAIT, "10000 tokens were counted before and 0 since"),
    (BASE, seen(1.0, rows=999), 3, False, AUTO, UNVERIFIED, "it stays without a comparison"),
    (None, seen(3.0), 3, False, ALWAYS, UNVERIFIED, "it stays without a comparison"),
    (BASE, seen(1.7), 1, False, AUTO, KEEP, "fan-out 2.000 -> 1.700 per token and layer (-15.0%)"),
    (BASE, seen(1.7), 1, True, NEVER, KEEP, "10000 tokens were counted before and 10000 since"),
    (BASE, seen(2.3), 1, False, AUTO, BACK, "together that is a loss of 15.0%"),
    (BASE, seen(2.0, balance=0.6), 1, False, AUTO, BACK, "balance 0.900 -> 0.600"),
    (BASE, seen(2.3), 1, True, AUTO, KEPT, "since a person wanted it (spec.rebalance.rollback: Always would"),
    (BASE, seen(2.3), 1, True, ALWAYS, BACK, "loss of 15.0%"),
    (BASE, seen(2.3), 1, False, NEVER, KEPT, "it stays, since spec.rebalance.rollback is Never"),
    (BASE, seen(2.3), 1, True, NEVER, KEPT, "it stays, since spec.rebalance.rollback is Never"),
    # Of 10,000 tokens 2% may be chance: more of them, and in the end the sign.
    (BASE, seen(1.98), 1, False, AUTO, WAIT, "by chance they may differ by 2.0%"),
    (BASE, seen(1.98), 3, False, AUTO, KEEP, "fan-out 2.000 -> 1.980"),
    (BASE, seen(1.98, rows=10**6), 1, False, AUTO, WAIT, "by chance they may differ by 2.0%"),
    (seen(2.0, rows=10**6), seen(1.98, rows=10**6), 1, False, AUTO, KEEP, "fan-out 2.000 -> 1.980"),
    (BASE, seen(2.0), 2, False, AUTO, WAIT, "by chance"),
    (BASE, seen(2.0), 3, False, AUTO, BACK, "no gain was measured"),
    (BASE, seen(2.0), 3, True, AUTO, KEPT, "no gain was measured"),
    (BASE, seen(2.02), 3, False, AUTO, BACK, "no gain was measured"),
    # With nodes, what travels between them counts.
    (seen(2.0, nodes=1.0), seen(2.5, nodes=0.5), 1, False, AUTO, KEEP, "node fan-out 1.000 -> 0.500"),
    # Where as many nodes are visited, what travels between shards counts.
    (seen(2.0, nodes=1.0), seen(1.5, nodes=1.0), 1, False, AUTO, KEEP, "fan-out 2.000 -> 1.500"),
    # A gain by counts that costs time is none, where the time does not come down again.
    (PACED, seen(1.5, token=10.5), 1, False, AUTO, KEEP, "a token took 10 -> 10.5 ms (+5.0%)"),
    (PACED, seen(1.5, token=20), 1, False, AUTO, WAIT, "10 -> 20 ms (+100.0%) in steps of as many rows, clearly more"),
    (PACED, seen(1.5, token=20), 2, False, AUTO, WAIT, "clearly more than the 10% that is borne"),
    (PACED, seen(1.5, token=20), 3, False, AUTO, SLOW, "clearly more than the 10% that is borne"),
    (PACED, seen(1.5, token=20), 3, True, AUTO, KEPT, "since a person wanted it"),
    (PACED, seen(1.5, token=20), 3, True, ALWAYS, SLOW, "clearly more"),
    (PACED, seen(1.5, token=20), 3, False, NEVER, KEPT, "since spec.rebalance.rollback is Never"),
    (PACED, seen(2.0, token=20), 3, False, AUTO, SLOW, "clearly more"),
    (PACED, seen(2.3, token=20), 1, False, AUTO, BACK, "loss of 15.0%"),
    # It never speaks for a placement.
    (PACED, seen(2.0, token=5), 3, False, AUTO, BACK, "no gain was measured"),
    (PACED, seen(2.3, token=5), 1, False, AUTO, BACK, "loss of 15.0%"),
    # Much more traffic, or none in steps of as many rows: it may come to be compared, and is no reason in the end.
    (PACED, seen(1.5, token=20, rate=200), 1, False, AUTO, WAIT, "200 rows a second came, and 100 before"),
    (PACED, seen(1.5, token=20, rate=200), 3, False, AUTO, KEEP, "latency was not compared: 200 rows a second"),
    # Or much longer contexts: steps of as many rows take longer by themselves.
    (LONG, seen(1.5, token=20, context=1300), 1, False, AUTO, WAIT, "contexts had 1.3e+03 tokens, and 1e+03 before"),
    (LONG, seen(1.5, token=20, context=1300), 3, False, AUTO, KEEP, "latency was not compared: contexts had"),
    (LONG, seen(1.5, token=20, context=1100), 3, False, AUTO, SLOW, "clearly more"),
    (LONG, seen(1.5, token=20, context=500), 3, False, AUTO, SLOW, "clearly more"),
    (PACED, seen(1.5), 1, False, AUTO, WAIT, "0 tokens came in steps of as many rows on either side"),
    (PACED, seen(1.5), 3, False, AUTO, KEEP, "latency was not compared"),
    # A data plane that did not measure it.
    (BASE, seen(1.5, token=20), 1, False, AUTO, KEEP, "fan-out 2.000 -> 1.500"),
]


@pytest.mark.parametrize(("before", "after", "waited", "person", "policy", "verdict", "said"), CASES)
def test_judge(
    before: Observed | None,
    after: Observed | None,
    waited: int,
    person: bool,
    policy: RollbackPolicy,
    verdict: Verdict | str,
    said: str,
) -> None:
    outcome = judge(before, after, waited, person, policy)
    found = SLOW if outcome.verdict is BACK and outcome.slower else outcome.verdict
    assert found == verdict, outcome.message
    assert said in outcome.message


def test_tokens_that_are_slower_decide_nothing_before_they_were_so_for_long() -> None:
    slow = seen(1.5, token=20)
    for waited in (1, MOST_WINDOWS, 10 * MOST_WINDOWS):
        early = judge(PACED, slow, waited, False, AUTO, for_long=False)
        assert (early.verdict, early.slower) == (WAIT, True)
    assert judge(PACED, slow, MOST_WINDOWS, False, AUTO, for_long=True).verdict is BACK
    # What is worse by counts is taken back at once, slower or not.
    assert judge(PACED, seen(2.3, token=20), 1, False, AUTO, for_long=False).verdict is BACK


@pytest.mark.parametrize(
    ("after", "waited", "error", "verdict"),
    [
        (1.97, 1, 0.0, KEEP),
        (1.94, 1, MODEL_ERROR, KEEP),
        (1.98, 1, MODEL_ERROR, WAIT),
        (1.98, 3, MODEL_ERROR, KEEP),
        (2.02, 1, 0.0, BACK),
        (2.02, 1, MODEL_ERROR, WAIT),
        (2.02, 3, MODEL_ERROR, BACK),
        (2.06, 1, MODEL_ERROR, BACK),
    ],
)
def test_what_was_computed_of_the_placement_before_may_be_a_little_wrong(
    after: float, waited: int, error: float, verdict: Verdict
) -> None:
    many = 10**6
    assert judge(seen(2.0, rows=many), seen(after, rows=many), waited, False, AUTO, error).verdict is verdict


@pytest.mark.parametrize(
    ("promised", "after", "waited", "verdict"),
    [
        # Of the figures compared no gain was promised: as long as they are no worse than foretold, it stays.
        (2.1, 2.1, 1, WAIT),
        (2.1, 2.1, 3, UNVERIFIED),
        (2.1, 2.2, 1, BACK),
        (2.1, 1.9, 1, KEEP),
        (2.0, 2.0, 3, UNVERIFIED),
        # A gain was promised of them, and there is none.
        (1.5, 2.0, 1, WAIT),
        (1.5, 2.0, 3, BACK),
        (1.5, 2.1, 1, BACK),
    ],
)
def test_a_gain_that_was_promised_elsewhere_is_not_missed_here(
    promised: float, after: float, waited: int, verdict: Verdict
) -> None:
    many = 10**6
    sides = (seen(2.0, rows=many), seen(after, rows=many))
    found = judge(*sides, waited, False, AUTO, MODEL_ERROR, seen(promised, rows=many))
    assert found.verdict is verdict, found.message


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (Observed(3000, 2.0, 0.0, 0.8), Observed(20_000, 1.6, 0.0002, 0.9), KEEP),
        (Observed(20_000, 1.6, 0.0002, 0.9), Observed(3000, 2.4, 0.0, 0.7), BACK),
        (Observed(20_000, 1.6, 0.0, 0.9), Observed(20_000, 1.5, 0.5, 0.9), BACK),
        (Observed(20_000, 1.6, 0.5, 0.9), Observed(20_000, 1.7, 0.0, 0.9), KEEP),
    ],
)
def test_some_pairs_asked_for_at_another_node_decide_nothing(
    before: Observed, after: Observed, verdict: Verdict
) -> None:
    found = judge(before, after, 1, False, AUTO, MODEL_ERROR)
    assert found.verdict is verdict, found.message


@pytest.mark.parametrize("nodes", [0.003, 0.05, 0.12, 0.5, 1.0])
@pytest.mark.parametrize("rows", [1000, 20_000])
def test_the_same_placement_under_the_same_traffic_is_hardly_ever_judged_in_the_first_window(
    nodes: float, rows: int
) -> None:
    draw = np.random.default_rng(1)
    counted = draw.poisson(nodes * rows, (1000, 2)) / rows
    found = [judge(*(seen(2.0, rows=rows, nodes=each) for each in pair), 1, False, AUTO).verdict for pair in counted]
    assert max(found.count(BACK), found.count(KEEP)) <= 0.05 * len(found)


paces = st.builds(
    lambda tokens, took, spread: (Pace(8, tokens, took / (1 + spread), took, took * (1 + spread)),),
    st.integers(0, 2000),
    st.floats(0, 10),
    st.floats(0, 2),
)
observed = st.builds(
    Observed,
    tokens=st.integers(0, 10**9),
    fan_out=st.floats(0, 100),
    node_fan_out=st.floats(0, 100),
    balance=st.floats(0, 1),
    paces=st.just(()) | paces,
    rate=st.floats(0, 1000),
)


@given(
    st.none() | observed, st.none() | observed, st.integers(0, 9), st.booleans(), st.sampled_from(RollbackPolicy)
)  # fmt: skip
def test_a_person_is_not_overruled_and_nobody_waits_for_ever(
    before: Observed | None, after: Observed | None, waited: int, person: bool, policy: RollbackPolicy
) -> None:
    verdict = judge(before, after, waited, person, policy).verdict
    if verdict is Verdict.ROLL_BACK:
        assert policy is ALWAYS or (policy is AUTO and not person)
    if verdict is Verdict.HARMFUL_BUT_KEPT:
        assert policy is NEVER or (policy is AUTO and person)
    assert not (verdict is Verdict.WAIT and waited >= MOST_WINDOWS)
    enough = before is not None and after is not None and min(before.tokens, after.tokens) >= LEAST_ROWS
    if not enough:
        assert verdict in (Verdict.WAIT, Verdict.NOT_VERIFIED)
    else:
        assert verdict is not Verdict.NOT_VERIFIED


@given(observed, observed, st.integers(0, 2))
def test_what_is_decided_early_is_decided_the_same_later(before: Observed, after: Observed, waited: int) -> None:
    early = judge(before, after, waited, False, AUTO).verdict
    if early is not Verdict.WAIT:
        assert judge(before, after, MOST_WINDOWS, False, AUTO).verdict is early
