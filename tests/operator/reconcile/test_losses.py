"""What is told of a deployment that served and lost something: by whom it is named, and until when."""

from typing import Any

import pytest
from told import DEGRADED, READY, message, told

from moe_operator.api import MoEDeploymentStatus, Reason
from moe_operator.finding import Finding
from moe_operator.runtimes.port import ApplicationPhase

UNHEALTHY = Finding(Reason.UNHEALTHY, "a health check failed")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"lost": frozenset({1})}, "True ShardsLost"),
        ({"ready": False}, "True AttentionLost"),
        ({"refused": "revision 7 of term 1 is old"}, "True PlacementRefused"),
    ],
)
def test_losses(make_plane, change: dict[str, Any], expected: str) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    for name, value in change.items():
        setattr(plane, name, value)
    assert told(plane.tell())["Degraded"] == expected
    assert told(plane.tell())["Degraded"] == expected


@pytest.mark.parametrize("answers", [True, False])
def test_an_application_that_serve_calls_unhealthy(make_plane, answers: bool) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.answers = answers
    plane.set_phase(plane.name, ApplicationPhase.UNHEALTHY, UNHEALTHY)
    status = plane.tell()
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "True Unhealthy")
    assert told(status)["Progressing"] == "False Settled"
    assert message(status, DEGRADED) == UNHEALTHY.message
    # What the directory says is lost is nearer to the cause.
    plane.lost = frozenset({1})
    assert told(plane.tell())["Degraded"] == ("True ShardsLost" if answers else "True Unhealthy")


@pytest.mark.parametrize("seen", [{"lost": frozenset({1})}, {}])
def test_a_lost_shard_is_told_of_until_it_has_its_experts_again(make_plane, seen: dict[str, Any]) -> None:
    """Also when it died and returned between two looks."""
    plane = make_plane(shards=2, copies={"min": 2}, slotsPerShard=16)
    plane.settle()
    for name, value in seen.items():
        setattr(plane, name, value)
    plane.tell()
    plane.lost, plane.empty, plane.settled = frozenset(), frozenset({1}), False
    for _ in range(2):
        status = plane.tell()
        assert told(status)["Degraded"] == "True ShardsLost"
        assert message(status, DEGRADED) == "shard 1 was lost and loads its experts anew"
        assert status.ready_shards == 1
    plane.empty, plane.settled = frozenset(), True
    status = plane.tell()
    assert (told(status)["Degraded"], status.ready_shards) == ("False AsExpected", 2)


def test_what_a_lost_shard_waits_for_is_told(make_plane) -> None:
    """A new process, then its experts; whatever it was that was told of it first."""
    plane = make_plane(shards=2)
    plane.settle()
    settled, plane.settled = plane.report(), False

    def tell(**shard: Any) -> tuple[str, str]:
        shards = (settled.shards[0], settled.shards[1].model_copy(update=shard))
        status = plane.tell(report=plane.report().model_copy(update={"shards": shards}))
        return told(status)["Degraded"], message(status, DEGRADED)

    assert tell(held=3, problem="no room") == ("True ShardProblem", "shard 1: no room")
    assert tell(held=0, phase="Starting") == ("True ShardsLost", "shard 1 was lost and starts anew")
    assert tell(held=3) == ("True ShardsLost", "shard 1 was lost and loads its experts anew")
    assert tell() == ("False AsExpected", "nothing is wrong")


def test_shards_that_start_or_are_added_are_no_loss(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settled, plane.empty = False, frozenset({0, 1})
    for _ in range(6):
        plane.run()
        # Serve may find one that still loads unhealthy.
        name = next(iter(plane.shard_names), plane.name)
        plane.set_phase(name, ApplicationPhase.UNHEALTHY, UNHEALTHY)
        assert told(plane.tell())["Degraded"] == "True Unhealthy"
        plane.set_phase(name, ApplicationPhase.RUNNING)
        assert told(plane.tell())["Degraded"] == "False AsExpected"
    plane.empty = frozenset()
    plane.settled = True
    plane.settle()
    plane.change(shards=4)
    for _ in range(6):
        plane.run()
        plane.settled = False
        assert told(plane.tell())["Degraded"] == "False AsExpected"


def test_a_shard_that_serve_calls_unhealthy_is_not_ready(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.set_phase(plane.shard_names[0], ApplicationPhase.UNHEALTHY, UNHEALTHY)
    status = plane.tell()
    assert (told(status)["Degraded"], status.ready_shards) == ("True Unhealthy", 1)
    assert message(status, READY) == (
        "1 expert shard and 1 attention replica answer requests; "
        "1 more answer, as the directory reports, which Serve calls failed or unhealthy"
    )


def test_a_foreign_writer_is_named(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.more = {"foreign_writer": Finding(Reason.FOREIGN_WRITER, "somebody removed it")}
    status = plane.tell()
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("True Available", "True ForeignWriter")
    plane.ready = False
    plane.moe = plane.moe.model_copy(update={"status": MoEDeploymentStatus()})
    status = plane.tell()
    assert (told(status)["Ready"], told(status)["Degraded"]) == ("False StartingAttention", "True ForeignWriter")
    assert message(status, DEGRADED) == "somebody removed it"
