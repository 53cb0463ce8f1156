"""ExpertPlacements and what runs: made of a first placement, written by hand, judged, migrated to, kept as history."""

import json

from bench import Bench, broken
from moe_facts import FACTS
from placement_objects import content
from written_placements import OTHER, SlowDirectory, migrate, write


async def test_the_first_placement_becomes_an_object(ready: Bench) -> None:
    first = ready.placement(1)
    revision, placement = ready.runs()
    assert revision == 1
    assert first["spec"] == {
        "deploymentRef": {"name": "tiny"},
        "decision": "Approved",
        "content": content(placement, 1, 0, FACTS.digest),
    }
    status = first["status"]
    assert (status["phase"], status["origin"], status["price"]["moves"]) == ("Active", "Operator", 16)
    assert [owner["uid"] for owner in first["metadata"]["ownerReferences"]] == ["u-1"]
    written = first["metadata"]["resourceVersion"]
    await ready.work(5, seconds=5.0)
    assert ready.placement(1)["metadata"]["resourceVersion"] == written


async def test_one_written_by_hand_is_migrated_to(ready: Bench) -> None:
    slow = SlowDirectory(looks=3)
    ready.ray.report = slow
    write(ready, 2, 1)
    await ready.work()
    assert ready.phases() == {1: "Active", 2: "Proposed"}
    assert ready.runs()[0] == 1
    ready.decide(2, "Approved")
    await ready.work(2, seconds=2.0)
    assert ready.phases() == {1: "Superseded", 2: "Migrating"}
    assert ready.runs() == (2, OTHER)
    status = ready.placement(2)["status"]
    assert status["progress"] == {"copied": 1, "total": 16, "epoch": 2}
    assert status["origin"] == "Person"
    assert status["price"] == {"moves": status["price"]["moves"], "bytes": status["price"]["moves"] * 100}
    await ready.work(4, seconds=2.0)
    assert ready.phases() == {1: "Superseded", 2: "Active"}
    assert ready.placement(2)["status"]["progress"]["copied"] == 4
    assert ready.kube.moe()["status"]["placement"]["revision"] == 2
    assert [owner["name"] for owner in ready.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]
    assert [reason for reason in ready.kube.reasons() if reason in ("Migrating", "InForce")] == ["Migrating", "InForce"]
    # It stays, whatever is computed for this shape.
    await ready.work(5, seconds=5.0)
    assert ready.runs() == (2, OTHER)


async def test_one_that_does_not_fit_is_refused_and_moves_nothing(ready: Bench) -> None:
    before = ready.runs()
    missing = ["0 1 2 3 4 5 6 6"] * 2
    write(ready, 2, 1, layers=missing)
    write(ready, 3, 0)
    write(ready, 4, 1, modelDigest="sha256:2")
    await ready.work()
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Proposed"}
    assert ready.judged(2, "Valid") == "False ExpertMissing"
    assert ready.judged(3, "Valid") == "False StaleBase"
    assert ready.judged(4, "Valid") == "False OtherModel"
    ready.decide(4, "Approved")
    ready.decide(3, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Active", 2: "Failed", 3: "Failed", 4: "Failed"}
    assert ready.judged(3, "Approved") == "False Failed"
    assert ready.runs() == before
    warned = [each for each in ready.kube.events() if each["type"] == "Warning"]
    about = sorted((e["regarding"]["name"], e["reason"]) for e in warned if e["regarding"]["kind"] == "ExpertPlacement")
    assert about == [("tiny-r2", "ExpertMissing"), ("tiny-r3", "StaleBase"), ("tiny-r4", "OtherModel")]


async def test_two_at_once(ready: Bench) -> None:
    write(ready, 2, 1)
    write(ready, 3, 1, of=ready.runs()[1])
    ready.decide(2, "Approved")
    ready.decide(3, "Approved")
    await ready.work(4, seconds=5.0)
    assert ready.phases() == {1: "Superseded", 2: "Active", 3: "Failed"}
    assert ready.judged(3, "Valid") == "False StaleBase"
    assert ready.runs() == (2, OTHER)


async def test_scaling_makes_a_placement_of_its_own(ready: Bench) -> None:
    await migrate(ready, 2, 1)
    write(ready, 9, 2)
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 3})
    await ready.work(4, seconds=5.0)
    ready.decide(9, "Approved")
    await ready.work(3, seconds=5.0)
    revision, placement = ready.runs()
    assert (revision, placement.shards) == (3, 3)
    assert ready.phases() == {1: "Superseded", 2: "Superseded", 3: "Active", 9: "Failed"}
    # From what runs to 3 shards as few copies move as can: the third has four new ones a layer at most.
    assert ready.placement(3)["status"]["price"]["moves"] <= 4 * FACTS.layers
    assert ready.placement(3)["spec"]["content"]["baseRevision"] == 2


async def test_shards_that_leave_are_no_part_of_a_content(ready: Bench) -> None:
    spec = ready.kube.moe()["spec"]["experts"]
    ready.change(experts={**spec, "shards": 2, "slotsPerShard": 8})
    await ready.work(4, seconds=5.0)
    ready.change(experts={**spec, "shards": 1, "slotsPerShard": 8})
    await ready.work(6, seconds=5.0)
    revision, placement = ready.runs()
    assert placement.shard_slots == (8,)
    assert ready.placement(revision)["spec"]["content"]["shards"] == 1
    assert ready.phases()[revision] == "Active"
    assert [phase for each, phase in ready.phases().items() if each < revision] == ["Superseded"] * (revision - 1)


async def test_history(ready: Bench) -> None:
    ready.change(rebalance={"historyLimit": 1})
    spec = ready.kube.moe()["spec"]["experts"]
    await migrate(ready, 2, 1)
    for shards in (3, 4, 3, 4):
        ready.change(experts={**spec, "shards": shards})
        await ready.work(6, seconds=5.0)
    revision, _ = ready.runs()
    kept = ready.phases()
    assert kept[revision] == "Active"
    assert kept[2] == "Superseded", "what a person wrote stays"
    operators = [each for each in kept if ready.placement(each)["status"]["origin"] == "Operator"]
    # What runs, what to go back to, and one more.
    assert len(operators) == 3
    assert operators[-1] == revision


async def test_while_suspended_nothing_is_written_or_begun(ready: Bench) -> None:
    ready.change(suspend=True)
    write(ready, 2, 1)
    ready.decide(2, "Approved")
    await ready.work(3, seconds=5.0)
    assert ready.phases() == {1: "Active", 2: "Approved"}
    assert ready.judged(2, "Valid") == "Unknown NotJudged"
    assert [owner["name"] for owner in ready.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]
    before = ready.placement(2)["metadata"]["resourceVersion"]
    await ready.work(3, seconds=5.0)
    assert ready.placement(2)["metadata"]["resourceVersion"] == before
    assert ready.runs()[0] == 1
    ready.change(suspend=False)
    await ready.work(3, seconds=5.0)
    assert ready.runs() == (2, OTHER)


async def test_one_that_nobody_can_read_is_left_alone(ready: Bench) -> None:
    before = ready.runs()[1]
    ready.write({**ready.placement(1), "spec": {**ready.placement(1)["spec"], "ofALaterRelease": 1}})
    await ready.work(4, seconds=5.0)
    assert ready.runs() == (2, before)
    assert ready.phases()[2] == "Active"


async def test_one_without_a_deployment_is_told_so(bench: Bench) -> None:
    write(bench, 2, 1)
    await bench.work()
    assert bench.judged(2, "Valid") == "Unknown DeploymentMissing"
    bench.apply()
    await bench.ready()
    assert bench.judged(2, "Valid") == "True Fits"
    assert [owner["name"] for owner in bench.placement(2)["metadata"]["ownerReferences"]] == ["tiny"]


async def test_while_ray_does_not_answer_one_is_told_so_and_the_others_stay(ready: Bench) -> None:
    write(ready, 2, 1)
    await ready.work()
    told_of_2 = ready.placement(2)["metadata"]["resourceVersion"]
    ready.ray.override = broken
    write(ready, 3, 1)
    await ready.work(2, seconds=5.0)
    assert ready.judged(3, "Valid") == "Unknown NotJudged"
    assert ready.placement(2)["metadata"]["resourceVersion"] == told_of_2


def test_the_objects_of_the_bench_are_what_the_api_server_takes(ready: Bench) -> None:
    assert json.loads(json.dumps(ready.placement(1))) == ready.placement(1)
