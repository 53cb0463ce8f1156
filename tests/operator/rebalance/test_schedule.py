"""When the traffic is looked at next, and why not now."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from placement_objects import content as content_body
from placement_objects import moved, stored

from moe_operator.api import ExpertPlacement, MoEDeployment, Reason, RebalanceReason
from moe_operator.api.names import ANNOTATION_PAUSE
from moe_operator.api.status import TIME_FORMAT
from moe_operator.rebalance.schedule import Evaluation, Past, evaluation, rest_after, standstill

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
RAY = {"dashboardURL": "http://127.0.0.1:8265", "serveURL": "http://127.0.0.1:8000"}
NIGHT = {"cron": "0 2 * * *", "duration": "3h"}


def deployment(rebalance: dict[str, Any], annotations: dict[str, str] | None = None, **more: Any) -> MoEDeployment:
    status = more.pop("status", {})
    return MoEDeployment.parse(
        {
            "apiVersion": "moe-operator.io/v1alpha1",
            "kind": "MoEDeployment",
            "metadata": {"name": "tiny", "namespace": "team", "uid": "u", "annotations": annotations or {}},
            "spec": {
                "model": {"source": {"path": "models/tiny"}},
                "runtime": {"rayCluster": RAY},
                "rebalance": {"mode": "Auto"} | rebalance,
                **more,
            },
            "status": status,
        }
    )


def ago(**length: float) -> datetime:
    return NOW - timedelta(**length)


CASES = [
    # what differs from mode Auto, interval 5m, cooldown 10m; the past; due, why, minutes until it is due
    ({"mode": "Off"}, Past(), False, RebalanceReason.OFF, None),
    ({}, Past(), True, RebalanceReason.DUE, None),
    ({"mode": "Propose"}, Past(), True, RebalanceReason.DUE, None),
    ({}, Past(looked=ago(minutes=4)), False, RebalanceReason.INTERVAL, 1),
    ({}, Past(looked=ago(minutes=5)), True, RebalanceReason.DUE, 0),
    ({}, Past(looked=ago(days=900)), True, RebalanceReason.DUE, 5 - 900 * 1440),
    ({}, Past(looked=ago(minutes=4), moved=ago(minutes=4)), False, RebalanceReason.COOLING_DOWN, 6),
    ({}, Past(looked=ago(minutes=1), moved=ago(minutes=9)), False, RebalanceReason.INTERVAL, 4),
    ({"cooldown": "1h"}, Past(moved=ago(minutes=59)), False, RebalanceReason.COOLING_DOWN, 1),
    ({}, Past(moved=ago(minutes=15), rollbacks=1), False, RebalanceReason.BACKING_OFF, 5),
    ({}, Past(moved=ago(minutes=15), rollbacks=3), False, RebalanceReason.BACKING_OFF, 65),
    ({}, Past(moved=ago(minutes=15), rollbacks=10**6), False, RebalanceReason.BACKING_OFF, 1440 - 15),
    ({"cooldown": "48h"}, Past(moved=ago(minutes=15), rollbacks=9), False, RebalanceReason.BACKING_OFF, 2880 - 15),
    ({}, Past(under_way="tiny-r7"), False, RebalanceReason.UNDER_WAY, None),
    ({"mode": "Off"}, Past(under_way="tiny-r7"), False, RebalanceReason.OFF, None),
    # Windows: two o'clock is 14 hours away.
    ({"windows": [NIGHT]}, Past(), False, RebalanceReason.OUTSIDE_WINDOWS, 840),
    ({"windows": [NIGHT]}, Past(looked=ago(minutes=4)), False, RebalanceReason.OUTSIDE_WINDOWS, 840),
    ({"windows": [NIGHT | {"cron": "0 11 * * *"}]}, Past(looked=ago(minutes=9)), True, RebalanceReason.DUE, -4),
    ({"windows": [NIGHT | {"cron": "0 11 * * *"}]}, Past(looked=ago(minutes=4)), False, RebalanceReason.INTERVAL, 1),
    (
        {"cooldown": "4h", "windows": [NIGHT | {"cron": "0 11 * * *"}]},
        Past(moved=ago(hours=1)),
        False,
        RebalanceReason.OUTSIDE_WINDOWS,
        23 * 60,
    ),
    ({"windows": [NIGHT | {"cron": "0 2 30 2 *"}]}, Past(), False, RebalanceReason.WINDOW_INVALID, None),
    # The clock went back, by seconds, or by a year; or somebody wrote a time.
    ({}, Past(looked=ago(seconds=-60)), False, RebalanceReason.INTERVAL, 6),
    ({}, Past(looked=ago(days=-365)), True, RebalanceReason.DUE, None),
    ({}, Past(looked=ago(minutes=1), moved=ago(days=-365)), False, RebalanceReason.INTERVAL, 4),
    ({}, Past(looked=datetime.max.replace(tzinfo=UTC)), True, RebalanceReason.DUE, None),
]


@pytest.mark.parametrize(("rebalance", "past", "due", "reason", "minutes"), CASES)
def test_evaluation(
    rebalance: dict[str, Any], past: Past, due: bool, reason: RebalanceReason, minutes: float | None
) -> None:
    found = evaluation(deployment(rebalance), past, NOW)
    assert (found.due, found.reason) == (due, reason), found.message
    assert found.at == (None if minutes is None else NOW + timedelta(minutes=minutes))
    assert found.message


STANDSTILL = [
    # what is written, annotations, suspend, what the condition says
    ({}, {}, False, None),
    ({"mode": "Off"}, {ANNOTATION_PAUSE: "true"}, True, None),
    ({}, {ANNOTATION_PAUSE: "true"}, False, (Reason.PAUSED, "pause-rebalance is set: remove it")),
    ({}, {ANNOTATION_PAUSE: "true"}, True, (Reason.SUSPENDED, "spec.suspend is true")),
    ({"windows": [NIGHT, NIGHT | {"timeZone": "Mars"}]}, {}, False, (Reason.WINDOW_INVALID, "windows[1].timeZone")),
]


@pytest.mark.parametrize(("rebalance", "annotations", "suspend", "said"), STANDSTILL)
def test_standstill(
    rebalance: dict[str, Any], annotations: dict[str, str], suspend: bool, said: tuple[Reason, str] | None
) -> None:
    moe = deployment(rebalance, annotations, suspend=suspend)
    found = standstill(moe, NOW)
    if said is None:
        assert found is None
        return
    assert found is not None
    assert found.reason is said[0]
    assert said[1] in found.message
    looked = evaluation(moe, Past(), NOW)
    assert (looked.due, looked.at, str(looked.reason)) == (False, None, str(found.reason))


def placement(revision: int, phase: str, migrated: str | None = None, verified: str | None = None) -> ExpertPlacement:
    """As its status tells: ``migrated`` since when, ``verified`` the status of that condition."""
    times = {"Migrated": migrated or "2026-01-01T00:00:00Z", "Verified": "2026-01-01T00:00:00Z"}
    states = {"Migrated": "True" if migrated else "False", "Verified": verified}
    conditions = [
        {"type": kind, "status": state, "reason": "X", "message": "", "observedGeneration": 1}
        | {"lastTransitionTime": times[kind]}
        for kind, state in states.items()
        if state
    ]
    body = content_body(moved(), revision, revision - 1)
    return stored(body, {"phase": phase, "conditions": conditions})


def told(time: str) -> dict[str, Any]:
    decision = {"time": time, "result": "Rejected", "reason": "X", "message": ""}
    return {"rebalance": {"lastDecision": decision}}


PASTS = [
    # status of the deployment, its placements, what they tell
    ({}, [], Past()),
    (told("2026-03-10T11:58:00Z"), [], Past(looked=ago(minutes=2))),
    (told("2026-03-10T13:58:00+02:00"), [], Past(looked=ago(minutes=2))),
    (told("yesterday"), [], Past()),
    (told("2026-03-10T11:58:00"), [], Past()),
    (told("0001-01-01T00:00:00+14:00"), [], Past()),
    (
        {},
        [placement(1, "Superseded", "2026-03-10T09:00:00Z"), placement(2, "Active", "2026-03-10T10:00:00Z")],
        Past(moved=ago(hours=2)),
    ),
    (
        {},
        [placement(1, "Active", "2026-03-10T09:00:00Z"), placement(2, "Migrating")],
        Past(moved=ago(hours=3), under_way="tiny-r2"),
    ),
    ({}, [placement(2, "Verifying", "2026-03-10T11:00:00Z")], Past(moved=ago(hours=1), under_way="tiny-r2")),
    # Rolled back twice since one was verified; what went back to the old one promised nothing.
    (
        {},
        [
            placement(1, "RolledBack"),
            placement(2, "Superseded", verified="True"),
            placement(3, "RolledBack", verified="False"),
            placement(4, "Superseded", verified="Unknown"),
            placement(5, "Rejected"),
            placement(6, "RolledBack", verified="False"),
            placement(7, "Active", verified="Unknown"),
        ],
        Past(rollbacks=2),
    ),
]


@pytest.mark.parametrize(("status", "placements", "past"), PASTS)
def test_the_past_is_what_the_objects_tell(
    status: dict[str, Any], placements: list[ExpertPlacement], past: Past
) -> None:
    moe = deployment({}, status=status)
    assert Past.of(moe, placements) == past
    assert Past.of(moe, reversed(placements)) == past


moments = st.datetimes(datetime(2025, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))
anything = st.none() | st.datetimes(timezones=st.just(UTC))
pasts = st.builds(Past, looked=anything, moved=anything, rollbacks=st.integers(0, 10**9))
wishes = st.fixed_dictionaries(
    {"mode": st.sampled_from(["Propose", "Auto"]), "interval": st.sampled_from(["10s", "5m", "24h"])},
    optional={
        "windows": st.lists(
            st.fixed_dictionaries(
                {"cron": st.sampled_from(["0 0 * * *", "*/9 3 * * 1", "30 2 * * *"]), "duration": st.just("2h")},
                optional={"timeZone": st.sampled_from(["Europe/Berlin", "Asia/Kolkata"])},
            ),
            max_size=2,
        )
    },
)


def believed(past: Past, moe: MoEDeployment, now: datetime) -> bool:
    """Whether no time of it lies further ahead than an interval: one that does is believed once the clock is near."""
    return not any(each and each > now + moe.spec.rebalance.every for each in (past.looked, past.moved))


@given(wishes, pasts, moments)
def test_it_comes_within_bounds_whatever_times_the_status_tells(
    rebalance: dict[str, Any], past: Past, now: datetime
) -> None:
    moe = deployment(rebalance)
    found = evaluation(moe, past, now)
    if found.due:
        assert found.at is None or found.at <= now
        return
    assert found.at is not None
    longest = 2 * moe.spec.rebalance.every + rest_after(moe.spec.rebalance, past.rollbacks) + timedelta(days=8)
    assert now < found.at <= now + longest


@given(wishes, pasts, moments)
def test_the_time_told_stays_until_it_has_come(rebalance: dict[str, Any], past: Past, now: datetime) -> None:
    moe = deployment(rebalance)
    first = evaluation(moe, past, now)
    if first.at is None or first.at <= now or not believed(past, moe, now):
        return
    between = evaluation(moe, past, now + (first.at - now) / 2)
    assert (between.due, between.at) == (False, first.at)
    assert evaluation(moe, past, first.at).due


def test_a_restarted_operator_comes_to_the_same_answer() -> None:
    """All it needs is what it wrote: told in seconds, read again."""
    moe = deployment({})
    at = NOW.strftime(TIME_FORMAT)
    again = deployment({}, status=told(at))
    later = NOW + timedelta(minutes=1)
    assert evaluation(again, Past.of(again, []), later) == evaluation(moe, Past(looked=NOW), later)
    assert isinstance(evaluation(moe, Past(looked=NOW), later), Evaluation)
