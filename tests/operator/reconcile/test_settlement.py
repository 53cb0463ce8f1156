"""What those who wait by kstatus are told in every situation that a deployment can be in."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from kstatus import kstatus
from told import told

from moe_contract.model import ModelProblem
from moe_operator.api import MoEDeploymentStatus, Reason
from moe_operator.api.names import CLEANUP_FINALIZER
from moe_operator.finding import Finding
from moe_operator.reconcile.conditions import deleting_status, failed_status, invalid_status
from moe_operator.reconcile.history import History
from moe_operator.reconcile.intent import next_intent
from moe_operator.reconcile.status import next_status
from moe_operator.runtimes.port import ApplicationPhase

FOREIGN_WRITER = Finding(Reason.FOREIGN_WRITER, "somebody removed it")
GONE = {"report": None, "keys": None}


def seen(plane: Any, status: MoEDeploymentStatus | None = None) -> str:
    """By kstatus; each time also what it leans on: never both, and nothing that is wrong passes for current."""
    status = status or plane.tell()
    body = status.model_dump(mode="json", by_alias=True, exclude_none=True)
    conditions = {c.type: c.status for c in status.conditions}
    assert (conditions["Reconciling"], conditions["Stalled"]) != ("True", "True")
    assert len(conditions) == 7
    return kstatus({"metadata": {"generation": plane.moe.metadata.generation}, "status": body})


def unreachable(plane: Any) -> None:
    plane.more = GONE | {
        "unreachable": Finding(Reason.RAY_UNREACHABLE, "refused"),
        "unreachable_seconds": 60.0,
        "report_failing_seconds": 60.0,
    }


def keyless(reason: Reason) -> Callable[[Any], None]:
    return lambda plane: plane.more.update(GONE | {"unasked": Finding(reason, "why")})


def refused(reason: Reason) -> Callable[[Any], None]:
    return lambda plane: plane.more.update(GONE | {"unreachable": Finding(reason, "why")})


def bad_model(plane: Any) -> None:
    plane.run()
    plane.facts, plane.problem = None, ModelProblem(reason="PathNotFound", message="no directory")


def starting(plane: Any) -> None:
    plane.answers = False
    plane.run()


def failing(plane: Any) -> None:
    starting(plane)
    plane.set_phase(plane.name, ApplicationPhase.FAILED, Finding(Reason.DEPLOY_FAILED, "ValueError: x"))


FIRST = [
    # before anything served
    (lambda plane: None, "InProgress"),
    (starting, "InProgress"),
    (bad_model, "Failed"),
    (failing, "Failed"),
    (unreachable, "InProgress"),
    (refused(Reason.RAY_AUTH_FAILED), "Failed"),
    (refused(Reason.NOT_A_RAY_DASHBOARD), "Failed"),
    (refused(Reason.RAY_ADDRESS_REFUSED), "Failed"),
    (keyless(Reason.SECRET_MISSING), "Failed"),
    (keyless(Reason.SECRET_NOT_LABELLED), "Failed"),
    (keyless(Reason.NAME_CONFLICT), "Failed"),
]


@pytest.mark.parametrize(("happens", "expected"), FIRST)
def test_before_it_served(make_plane, happens: Callable[[Any], None], expected: str) -> None:
    plane = make_plane(shards=2)
    happens(plane)
    assert [seen(plane) for _ in range(3)] == [expected] * 3


LATER: list[tuple[dict[str, Any], str]] = [
    # something of one that served and is settled
    ({}, "Current"),
    ({"lost": frozenset({1})}, "InProgress"),
    ({"ready": False}, "InProgress"),
    ({"settled": False}, "InProgress"),
    ({"more": {"foreign_writer": FOREIGN_WRITER}}, "Current"),
    ({"more": {"report": None, "report_problem": Finding(Reason.DIRECTORY_UNREACHABLE, "why")}}, "Current"),
    (
        {
            "more": {
                "report": None,
                "report_problem": Finding(Reason.DIRECTORY_UNREACHABLE, "why"),
                "report_failing_seconds": 12.0,
            }
        },
        "InProgress",
    ),
]


@pytest.mark.parametrize(("change", "expected"), LATER)
def test_of_one_that_served(make_plane, change: dict[str, Any], expected: str) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    for name, value in change.items():
        setattr(plane, name, value)
    assert [seen(plane) for _ in range(3)] == [expected] * 3


@pytest.mark.parametrize("experts", [{"shards": 9}, {"shards": 2, "slotsPerShard": 1, "copies": {"min": 2}}])
def test_a_spec_that_cannot_be_met_has_failed_whatever_runs(make_plane, experts: dict[str, Any]) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(**experts)
    plane.run()
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Failed", "True Available")


@pytest.mark.parametrize("reason", [Reason.ROUTE_PREFIX_TAKEN, Reason.NAME_CONFLICT])
def test_so_has_one_whose_name_or_route_is_taken(make_plane, reason: Reason) -> None:
    plane = make_plane(shards=2)
    world = plane.world()
    assert seen(plane, next_status(world, next_intent(world), Finding(reason, "why"))) == "Failed"


def test_what_should_pass_and_does_not_has_failed_after_ten_minutes(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    unreachable(plane)
    assert seen(plane) == "InProgress"
    plane.now += timedelta(minutes=9)
    assert seen(plane) == "InProgress"
    plane.now += timedelta(minutes=1)
    assert seen(plane) == "Failed"
    plane.more = {}
    assert seen(plane) == "Current"


def test_a_pod_without_room_stalls_nothing_that_serves(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.more = {"pods_problem": Finding(Reason.UNSCHEDULABLE, "a spare pod has no node")}
    for _ in range(3):
        assert (seen(plane), told(plane.tell())["Degraded"]) == ("InProgress", "True Unschedulable")
        plane.now += timedelta(minutes=10)
    plane.more |= GONE | {"report_failing_seconds": 60.0}
    plane.tell()
    plane.now += timedelta(minutes=10)
    assert (seen(plane), told(plane.tell())["Ready"].partition(" ")[0]) == ("Failed", "False")


def test_a_ray_that_does_not_keep_what_it_is_given_is_stalled_after_a_while(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.more = {"foreign_writer": FOREIGN_WRITER}
    assert seen(plane) == "InProgress"
    plane.now += timedelta(minutes=9)
    assert seen(plane) == "InProgress"
    plane.now += timedelta(minutes=1)
    assert seen(plane) == "Failed"


def test_scaling_and_another_model_are_in_progress(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4)
    assert seen(plane) == "InProgress"
    plane.settle()
    assert seen(plane) == "Current"
    plane.change(shards=4, spec={"model": {"source": {"path": "models/other"}}})
    plane.candidate = None
    plane.run()
    assert seen(plane) == "InProgress"


def test_asleep_as_asked_for_is_done(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=0)
    assert seen(plane) == "InProgress"
    plane.run()
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Current", "True Asleep")
    # A Ray that goes meanwhile is told of, and changes nothing of that.
    unreachable(plane)
    plane.now += timedelta(hours=1)
    assert (seen(plane), told(plane.tell())["RuntimeReachable"]) == ("Current", "False RayUnreachable")
    plane.now += timedelta(hours=1)
    assert seen(plane) == "Current"
    plane.change(shards=2)
    assert told(plane.tell())["Ready"] == "False RayUnreachable"
    # It is not taken for one that served: waking, its directory is not missed.
    plane.more = {}
    plane.answers = False
    plane.run()
    assert (seen(plane), told(plane.tell())["Ready"]) == ("InProgress", "False DeployingCore")


SUSPENDED = {"spec": {"suspend": True}}


def test_suspended_as_asked_for_is_done(make_plane) -> None:
    plane = make_plane(shards=2, **SUSPENDED)
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Current", "True Suspended")
    plane = make_plane(shards=2, **SUSPENDED)
    unreachable(plane)
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Current", "True Suspended")


def test_suspended_while_it_serves(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4, **SUSPENDED)
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Current", "True Available")
    plane.lost = frozenset({1})
    assert (seen(plane), told(plane.tell())["Degraded"]) == ("Current", "True ShardsLost")


def test_suspended_while_it_starts(make_plane) -> None:
    plane = make_plane(shards=2)
    starting(plane)
    plane.tell()
    plane.change(shards=2, **SUSPENDED)
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Current", "True Suspended")


def test_suspended_while_it_is_broken_has_failed(make_plane) -> None:
    """Nothing is done about it, as was asked for; to call it as it should be would be too much."""
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, **SUSPENDED)
    plane.moe = plane.moe.model_copy(
        update={"metadata": plane.moe.metadata.model_copy(update={"finalizers": (CLEANUP_FINALIZER,)})}
    )
    unreachable(plane)
    assert (seen(plane), told(plane.tell())["Ready"]) == ("Failed", "False RayUnreachable")


@pytest.mark.parametrize(
    ("reason", "expected"), [(Reason.INTERNAL_ERROR, "InProgress"), (Reason.KUBERNETES_REFUSED, "Failed")]
)
def test_a_pass_that_failed(make_plane, reason: Reason, expected: str) -> None:
    plane = make_plane(shards=2)
    history = History(MoEDeploymentStatus(), 1, plane.now)
    first = failed_status(history, Finding(reason, "why"), 0.0)
    assert told(first) == {
        "Ready": f"Unknown {reason}",
        "Progressing": f"Unknown {reason}",
        "Degraded": f"True {reason}",
    }
    plane.settle()
    served = plane.tell()
    later = replace(history, before=served)
    status = failed_status(later, Finding(reason, "why"), 29.0)
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", f"True {reason}")
    assert seen(plane, status) == expected
    status = failed_status(later, Finding(reason, "why"), 30.0)
    assert told(status)["Ready"] == f"Unknown {reason}"
    much_later = replace(history, before=status, now=plane.now + timedelta(minutes=10))
    assert seen(plane, failed_status(much_later, Finding(reason, "why"), 630.0)) == "Failed"


def test_one_that_cannot_be_read_and_one_that_is_deleted(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    history = History(plane.tell(), 1, plane.now)
    assert seen(plane, invalid_status(history, "spec.x is unknown")) == "Failed"
    assert seen(plane, deleting_status(history, Finding(Reason.DELETING, "Serve is stopping"))) == "InProgress"


def test_right_after_apply_it_is_in_progress_and_without_words_of_others() -> None:
    """By the default of the CRD; and what another release or a hand wrote is not believed."""
    raw = {"status": {"observedGeneration": -1}}
    assert kstatus({"metadata": {"generation": 1}, **raw}) == "InProgress"
    assert MoEDeploymentStatus.of(raw).observed_generation == -1
    forged = {
        "status": "True",
        "observedGeneration": 1,
        "lastTransitionTime": "2026-01-02T03:04:05Z",
        "message": "",
        "type": "Ready",
        "reason": "Available",
    }
    conditions = [forged, forged | {"type": "Mine"}, forged | {"reason": "OfALaterRelease", "type": "Degraded"}]
    assert [c.type for c in MoEDeploymentStatus.of({"status": {"conditions": conditions}}).conditions] == ["Ready"]
