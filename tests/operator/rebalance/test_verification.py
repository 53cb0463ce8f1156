"""Whether a placement stays, by what was counted before and since."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.api import RollbackPolicy
from moe_operator.rebalance.verification import LEAST_ROWS, MODEL_ERROR, MOST_WINDOWS, Verdict, judge
from moe_placement.verification import Observed

AUTO, ALWAYS, NEVER = RollbackPolicy.AUTO, RollbackPolicy.ALWAYS, RollbackPolicy.NEVER
KEEP, WAIT, BACK = Verdict.KEEP, Verdict.WAIT, Verdict.ROLL_BACK
UNVERIFIED, KEPT = Verdict.NOT_VERIFIED, Verdict.HARMFUL_BUT_KEPT


def seen(fan_out: float, balance: float = 0.9, rows: int = 10_000, nodes: float = 0, latency: float | None = None):
    return Observed(rows, fan_out, nodes, balance, latency)


BASE = seen(2.0)

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
    # A gain by counts that costs time is none.
    (seen(2.0, latency=0.01), seen(1.5, latency=0.0105), 1, False, AUTO, KEEP, "fan-out 2.000 -> 1.500"),
    (seen(2.0, latency=0.01), seen(1.5, latency=0.02), 1, False, AUTO, BACK, "latency rose by 100%"),
]


@pytest.mark.parametrize(("before", "after", "waited", "person", "policy", "verdict", "said"), CASES)
def test_judge(
    before: Observed | None,
    after: Observed | None,
    waited: int,
    person: bool,
    policy: RollbackPolicy,
    verdict: Verdict,
    said: str,
) -> None:
    outcome = judge(before, after, waited, person, policy)
    assert outcome.verdict is verdict, outcome.message
    assert said in outcome.message


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


observed = st.builds(
    Observed,
    tokens=st.integers(0, 10**9),
    fan_out=st.floats(0, 100),
    node_fan_out=st.floats(0, 100),
    balance=st.floats(0, 1),
    latency=st.none() | st.floats(0, 100),
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
