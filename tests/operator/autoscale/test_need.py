"""How many shards a usage asks for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_operator.api.reasons import AutoscaleReason
from moe_operator.autoscale.need import MOST_AT_ONCE, Targets, need, out_of_reach
from moe_operator.autoscale.usage import Usage

UP, LATE, DOWN = (
    AutoscaleReason.UTILIZATION_ABOVE_TARGET,
    AutoscaleReason.ITL_ABOVE_TARGET,
    AutoscaleReason.BELOW_TARGET,
)
TABLE = [
    # shards, busiest, itl in ms, target of utilisation, of itl in ms, wanted
    (2, 0.70, None, 0.7, None, (2, None)),
    (2, 0.71, None, 0.7, None, (3, UP)),
    (2, 1.00, None, 0.7, None, (3, UP)),
    (2, 1.00, None, 0.3, None, (4, UP)),  # 7 would be wanted; twice as many at once is the most
    (8, 0.75, None, 0.7, None, (9, UP)),
    # Fewer, where they stay 15% below the target: 4 x 0.2 / 0.595 = 1.3.
    (4, 0.20, None, 0.7, None, (2, DOWN)),
    (4, 0.00, None, 0.7, None, (1, DOWN)),
    (4, 0.44, None, 0.7, None, (3, DOWN)),
    (4, 0.45, None, 0.7, None, (4, None)),
    (1, 0.00, None, 0.7, None, (1, None)),
    # Tokens: of 100 ms shards have 60; with 3 of them it is 40 + 40.
    (2, 0.60, 100, 0.7, 80, (3, LATE)),
    (2, 0.60, 100, 0.7, 100, (2, None)),
    (2, 0.60, 100, 0.7, 45, (4, LATE)),  # 24 would be wanted
    (2, 0.60, 100, 0.7, 40, (2, None)),  # which no number of shards reaches
    # Fewer shards must keep to both.
    (4, 0.20, 100, 0.7, 150, (2, DOWN)),
    (4, 0.20, 100, 0.7, 120, (4, None)),
    (4, 0.20, None, 0.7, 120, (2, DOWN)),
]


@pytest.mark.parametrize(("shards", "busy", "itl", "load", "target", "wanted"), TABLE)
def test_wanted(
    shards: int, busy: float, itl: int | None, load: float, target: int | None,
    wanted: tuple[int, AutoscaleReason | None],
) -> None:  # fmt: skip
    used = Usage(shards, busy, 0, shards * busy, itl and itl / 1000)
    found = need(used, Targets(load, target and target / 1000))
    assert (found.shards, found.reason) == wanted


def test_what_shards_cannot_change_is_told_apart() -> None:
    used = Usage(2, 0.6, 0, 1.2, 0.1)
    assert out_of_reach(used, Targets(0.7, 0.04))
    assert not out_of_reach(used, Targets(0.7, 0.05))
    assert not out_of_reach(used, Targets(0.7))


PARTS = st.floats(0.0, 1.0)


@given(
    st.integers(1, 64), PARTS, st.none() | st.floats(0.001, 10), st.floats(0.05, 0.95), st.none() | st.floats(0.001, 10)
)
def test_what_is_wanted_meets_the_targets_and_no_more(
    shards: int, busy: float, itl: float | None, load: float, target: float | None
) -> None:
    used, targets = Usage(shards, busy, 0, shards * busy, itl), Targets(load, target)
    found = need(used, targets)
    assert 1 <= found.shards <= MOST_AT_ONCE * shards
    assert (found.reason is None) == (found.shards == shards)
    expected = busy * shards / found.shards
    if found.shards < shards:
        assert expected <= load
        assert target is None or itl is None or itl * (1 - busy + expected) <= target
    # The same figures of as many as were wanted want nothing else, unless there were too many to add at once.
    if found.shards < MOST_AT_ONCE * shards:
        then = Usage(found.shards, min(1.0, expected), 0, shards * busy, itl and itl * (1 - busy + expected))
        again = need(then, targets)
        assert again.shards <= found.shards or target is not None
