"""When a Lease may be claimed, and what is then written: tables without a clock."""

from datetime import UTC, datetime
from typing import Any

import pytest

from moe_operator.leader import LeaseSettings
from moe_operator.leader.lease import LeaseRecord, Patience, claimed, released

NOW = datetime(2026, 1, 2, 3, 4, 5, 678900, UTC)
ME = LeaseSettings("moe-system", "moe-operator", "me")


def record(holder: str, renewed: str = "t0", duration: float = 15) -> LeaseRecord:
    return LeaseRecord(holder, duration, renewed, version=renewed)


SEQUENCES: list[tuple[str, list[tuple[float, LeaseRecord | None, bool]]]] = [
    # what was read when, and whether it may be claimed
    ("no Lease", [(0, None, True)]),
    ("nobody's", [(0, record(""), True)]),
    ("mine", [(0, record("me"), True)]),
    ("another's that runs out", [(0, record("a"), False), (14.9, record("a"), False), (15, record("a"), True)]),
    (
        "another's that is renewed",
        [(0, record("a"), False), (10, record("a", "t1"), False), (20, record("a", "t1"), False)],
    ),
    ("another's that was given back", [(0, record("a"), False), (1, record("", "t1"), True)]),
    ("another's that was deleted", [(0, record("a"), False), (1, None, False), (15, None, True)]),
    ("long ones are waited for longer", [(0, record("a", duration=60), False), (59, record("a", duration=60), False)]),
]


@pytest.mark.parametrize(("reads"), [reads for _, reads in SEQUENCES], ids=[name for name, _ in SEQUENCES])
def test_patience(reads: list[tuple[float, LeaseRecord | None, bool]]) -> None:
    patience = Patience()
    for at, lease, may in reads:
        assert patience.may_claim(lease, "me", at) is may, f"at {at}"


def lease(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "moe-operator", "resourceVersion": "7", "labels": {"a": "b"}}, "spec": spec}


def test_a_first_claim_makes_the_lease() -> None:
    made = claimed(None, ME, NOW)
    assert made["metadata"] == {"namespace": "moe-system", "name": "moe-operator"}
    assert made["spec"] == {
        "holderIdentity": "me",
        "leaseDurationSeconds": 15,
        "acquireTime": "2026-01-02T03:04:05.678900Z",
        "renewTime": "2026-01-02T03:04:05.678900Z",
        "leaseTransitions": 0,
    }


def test_a_renewal_changes_only_the_time_and_a_takeover_counts() -> None:
    mine = lease(holderIdentity="me", acquireTime="then", leaseTransitions=4)
    assert claimed(mine, ME, NOW)["spec"]["acquireTime"] == "then"
    assert claimed(mine, ME, NOW)["spec"]["leaseTransitions"] == 4
    theirs = claimed(lease(holderIdentity="a", acquireTime="then", leaseTransitions=4), ME, NOW)
    assert theirs["spec"]["acquireTime"] == theirs["spec"]["renewTime"]
    assert theirs["spec"]["leaseTransitions"] == 5
    assert theirs["metadata"] == lease()["metadata"]


def test_a_released_lease_is_nobodys() -> None:
    assert LeaseRecord.of(released(lease(holderIdentity="me", leaseDurationSeconds=15), NOW)).holder == ""


@pytest.mark.parametrize(
    "times",
    [
        {"retry_period": 9.0},
        {"retry_period": 0.0},
        {"renew_deadline": 10.0},
        {"request_timeout": 6.0},
        {"duration": 14},
    ],
)
def test_times_that_could_let_two_lead_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="renew_deadline"):
        LeaseSettings("n", "l", "me", **times)
