"""What is written, and what is refused before anything is; the API server's part is in tests/operator/e2e."""

from typing import Any

import pytest
from fake_cluster import FakeCluster, moe, request, xp

from moe_operator.kubectl.commands.decisions import approve, drain, pause, reject, resume, rollback
from moe_operator.kubectl.exits import (
    ChangedError,
    NotThereError,
    PluginError,
    RefusedError,
    RightError,
    TakenError,
    UnreachableError,
    UsageError,
)

OTHER = ["3 2 1 0 - -", "0 1 2 3 - -"]


@pytest.mark.parametrize("written", ["4", "r4", "tiny-r4"])
def test_approve_decides_on_this_object_and_nothing_else(written: str) -> None:
    cluster = FakeCluster(moe(), xp(4, "Proposed", "Pending"))
    answer = approve(request(cluster, written))
    assert cluster.get("expertplacements", "tiny-r4")["spec"]["decision"] == "Approved"
    assert answer.data["decision"] == "Approved"


def test_deciding_twice_the_same_is_done_and_writes_nothing() -> None:
    cluster = FakeCluster(xp(4, "Migrating", "Approved"), xp(5, "Rejected", "Rejected"))
    assert "already" in approve(request(cluster, "4")).lines[0]
    assert "already" in reject(request(cluster, "5")).lines[0]
    assert cluster.done == []


VALID = {"type": "Valid", "status": "False", "reason": "StaleBase", "message": "revision 7 is in force by now"}


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (xp(4, "Rejected", "Rejected"), "was rejected, which stays"),
        (xp(4, "Failed", "Pending", status={"conditions": [VALID]}), "revision 7 is in force by now"),
        (xp(4, "Superseded", "Pending"), "is Superseded and can be approved no more"),
    ],
)
def test_what_can_be_approved_no_more(found: dict[str, Any], says: str) -> None:
    cluster = FakeCluster(found)
    with pytest.raises(RefusedError, match=says):
        approve(request(cluster, "4"))
    assert cluster.done == []


@pytest.mark.parametrize(
    ("written", "says"), [("four", "no revision"), ("0", "no revision"), ("big-r4", "not of tiny")]
)
def test_a_revision_that_is_none(written: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        approve(request(FakeCluster(xp(4)), written))


def test_rollback_writes_the_earlier_content_under_a_free_revision_and_from_what_runs() -> None:
    waiting = xp(4, "Proposed", "Pending")
    cluster = FakeCluster(moe(3), xp(1), xp(2, layers=OTHER), xp(3, "Active"), waiting)
    answer = rollback(request(cluster))
    written = cluster.get("expertplacements", "tiny-r5")["spec"]
    assert written["content"] == xp(2, layers=OTHER)["spec"]["content"] | {"revision": 5, "baseRevision": 3}
    assert written["decision"] == "Approved"
    assert (answer.data["revision"], answer.data["contentOf"]) == (5, 2)
    assert cluster.done == ["create", "patch"]


def test_rollback_to_a_named_revision() -> None:
    cluster = FakeCluster(moe(3), xp(1, layers=OTHER), xp(2), xp(3, "Active"))
    assert rollback(request(cluster, "1")).data["contentOf"] == 1


def test_an_object_that_nobody_can_read_takes_its_revision_all_the_same() -> None:
    broken = xp(4, "Proposed")
    broken["spec"] = {"deploymentRef": {"name": "tiny"}, "content": "damaged"}
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"), broken)
    assert rollback(request(cluster)).data["revision"] == 5


def test_one_that_waits_far_ahead_does_not_keep_a_rollback_from_being_within_the_step_allowed() -> None:
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"), xp(1003, "Proposed", "Pending"))
    assert rollback(request(cluster)).data["revision"] == 4


def test_another_deployments_placements_are_not_looked_at() -> None:
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"), xp(40, deployment="big"))
    assert rollback(request(cluster)).data["revision"] == 4


@pytest.mark.parametrize(
    ("objects", "revision", "says"),
    [
        ([moe(3), xp(2), xp(3, "Active")], "3", "is what runs"),
        ([moe(3), xp(2), xp(3, "Active")], "2", "has the content of revision 2"),
        ([moe(3), xp(2, shards=3, slotsPerShard=2), xp(3, "Active", layers=OTHER)], "2", "its shards is 3, not 2"),
        ([moe(3), xp(2, modelDigest="sha256:9"), xp(3, "Active")], "2", "modelDigest is sha256:9"),
        ([moe(0), xp(2)], "2", "nothing to roll back from"),
    ],
)
def test_a_rollback_that_cannot_be(objects: list[Any], revision: str, says: str) -> None:
    cluster = FakeCluster(*objects)
    with pytest.raises(RefusedError, match=says):
        rollback(request(cluster, revision))
    assert cluster.done == []


def test_nothing_to_roll_back_to() -> None:
    with pytest.raises(NotThereError, match="no superseded placement before revision 3"):
        rollback(request(FakeCluster(moe(3), xp(3, "Active"), xp(4))))


def test_whoever_may_write_and_not_approve_leaves_nothing_behind() -> None:
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"))
    cluster.faults = {"patch": [RightError("the role moe-operator-approve is missing")]}
    with pytest.raises(RightError, match="moe-operator-approve is missing; nothing has changed"):
        rollback(request(cluster))
    assert cluster.done == ["create", "delete"]
    cluster.faults = {"patch": [RightError("the role is missing")], "delete": [RightError("no")]}
    with pytest.raises(RightError, match="tiny-r4, which was written for it, stays Pending"):
        rollback(request(cluster))


def test_what_may_be_approved_is_not_taken_back() -> None:
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"))
    cluster.faults = {"patch": [UnreachableError("no answer")]}
    with pytest.raises(UnreachableError, match=r"whether tiny-r4, .* is approved is not known"):
        rollback(request(cluster))
    assert cluster.done == ["create"]


def test_what_ran_before_may_not_be_told_to_be_over_yet() -> None:
    cluster = FakeCluster(moe(3), xp(2, "Active", layers=OTHER), xp(3, "Active"))
    assert rollback(request(cluster)).data["contentOf"] == 2


def test_a_revision_taken_meanwhile_is_passed_over_and_not_for_ever() -> None:
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"))
    cluster.faults = {"create": [TakenError("tiny-r4 exists")]}
    assert rollback(request(cluster)).data["revision"] == 4
    cluster = FakeCluster(moe(3), xp(2, layers=OTHER), xp(3, "Active"))
    cluster.faults = {"create": [TakenError("it exists")] * 9}
    with pytest.raises(TakenError):
        rollback(request(cluster))
    assert len(cluster.faults["create"]) == 6


def test_pause_and_resume() -> None:
    cluster = FakeCluster(moe())
    assert pause(request(cluster)).data["paused"] is True
    assert cluster.get("moedeployments", "tiny")["metadata"]["annotations"] == {
        "moe-operator.io/pause-rebalance": "true"
    }
    assert resume(request(cluster)).data["paused"] is False
    assert cluster.get("moedeployments", "tiny")["metadata"]["annotations"] == {}


def drained(cluster: FakeCluster) -> Any:
    annotations = cluster.get("moedeployments", "tiny")["metadata"].get("annotations", {})
    return annotations.get("moe-operator.io/drain-shards")


def test_drain_adds_to_what_is_drained_and_stops() -> None:
    cluster = FakeCluster(moe(shards=4))
    for shards, stop, then in (([3], False, "3"), ([1], False, "1,3"), ([3], True, "1"), ([], True, None)):
        drain(request(cluster, shards=shards, stop=stop))
        assert drained(cluster) == then


def test_a_drain_that_met_another_write_looks_again() -> None:
    cluster = FakeCluster(moe(shards=4))
    cluster.faults = {"patch": [ChangedError("the object has been modified")]}
    drain(request(cluster, shards=[2]))
    assert drained(cluster) == "2"


@pytest.mark.parametrize(
    ("shards", "error", "says"),
    [
        ([], UsageError, "name the shards"),
        ([2], NotThereError, "has no shard 2: it runs shards 0 to 1"),
        ([0, 1], RefusedError, "nothing would be left"),
    ],
)
def test_a_drain_that_cannot_be(shards: list[int], error: type[PluginError], says: str) -> None:
    cluster = FakeCluster(moe())
    with pytest.raises(error, match=says):
        drain(request(cluster, shards=shards))
    assert cluster.done == []


def test_what_is_no_index_in_the_annotation_is_left_out() -> None:
    cluster = FakeCluster(moe(shards=4))
    cluster.objects["moedeployments", "tiny"]["metadata"]["annotations"] = {"moe-operator.io/drain-shards": "x, 1,,-2"}
    drain(request(cluster, shards=[3]))
    assert drained(cluster) == "1,3"
