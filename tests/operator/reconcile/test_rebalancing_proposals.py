"""What becomes of a proposal: it is decided on, gives way to a later one, or is of use no more."""

from collections.abc import Callable

from fake_kube import WRITTEN_BY_THE_OPERATOR
from moe_facts import FACTS
from placement_objects import content, manifest
from rebalance_loop import EVERY, SAME, better, nothing
from written_placements import OTHER, write

from moe_operator.kube.resources import EXPERT_PLACEMENTS
from moe_operator.rebalance.proposal import Proposal, Question


def ever_better(looks: int) -> list[Callable[[Question], Proposal]]:
    """Each finds more than the one before, and so proposes anew."""
    return [better((OTHER, SAME)[look % 2], 0.5 + 0.03 * look) for look in range(looks)]


async def test_a_proposal_with_a_price_waits_for_a_person(start) -> None:
    loop = await start("Propose", better(), linkBytesPerSecond="125M")
    await loop.until_phases(r1="Active", r2="Proposed")
    await loop.bench.work(seconds=1.0)
    made = loop.bench.placement(2)
    assert made["spec"] == {
        "deploymentRef": {"name": "tiny"},
        "decision": "Pending",
        "content": content(OTHER, 2, 1, FACTS.digest),
    }
    status = made["status"]
    assert status["origin"] == "Operator"
    assert status["price"] == {"moves": 16, "bytes": 1600, "seconds": "0.25"}
    assert status["why"] == loop.status["lastDecision"]["message"]
    assert status["predicted"] == {
        "balance": "0.9500",
        "fanOut": "1.2000",
        "nodeFanOut": "0.0000",
        "besideAttention": True,
    }
    assert status["before"] == {
        "balance": "0.8004",
        "fanOut": "1.5004",
        "nodeFanOut": "0.0000",
        "besideAttention": True,
        "rows": 4000,
    }
    assert [owner["uid"] for owner in made["metadata"]["ownerReferences"]] == ["u-1"]
    assert (loop.bench.judged(2, "Valid"), loop.bench.judged(2, "Approved")) == ("True Fits", "False Pending")
    assert loop.decision == "Accepted GainPays"
    assert loop.status["lastDecision"]["message"] == "tiny-r2: gain 12% over 1h pays for 16 moves"
    assert loop.status["nextEvaluation"] > loop.status["lastDecision"]["time"]
    assert "Proposed" in loop.bench.kube.reasons()
    # Nothing moves, however long nobody decides; and what is found again is not written again.
    await loop.bench.work(30, seconds=10.0)
    assert (loop.bench.runs()[0], loop.bench.phases()) == (1, {1: "Active", 2: "Proposed"})
    assert len(loop.brain.asked) > 10
    assert "tiny-r2, proposed before, stands" in loop.status["lastDecision"]["message"]
    # As the question says what it depends on.
    asked = loop.brain.asked[0]
    assert (asked.ground.revision, asked.ground.shards, asked.revision, asked.least_gain) == (1, 2, 2, 0.03)
    assert asked.link == 125e6
    assert (asked.rows_per_step, asked.attention) == (2.0, ()), "requests that run, of an older data plane"
    loop.directory.balances, loop.directory.milliseconds, loop.directory.nodes = {1: 0.8}, {1: 10}, ("a", "b")
    await loop.bench.work(3, seconds=10.0)
    asked = loop.brain.asked[-1]
    assert (asked.rows_per_step, asked.nodes, asked.attention) == (7.5, ("a", "b"), ("b",)), "the mean of lately"


async def test_a_later_proposal_takes_the_place_of_one_that_nobody_decided_on(start) -> None:
    loop = await start("Propose", better(), better(SAME, balance=0.99), historyLimit=1)
    await loop.until_phases(r1="Active", r2="Failed", r3="Proposed")
    assert loop.bench.judged(2, "Valid") == "False Superseded"
    # Nor is it any more use to approve it.
    loop.bench.decide(2, "Approved")
    await loop.bench.work(3, seconds=1.0)
    assert (loop.bench.runs()[0], loop.bench.judged(2, "Approved")) == (1, "False Failed")
    # Of what is over as many are kept as asked for.
    loop.brain.finds = [better(OTHER, balance=0.90)]
    await loop.until_phases(r1="Active", r3="Failed", r4="Proposed")


async def test_of_many_proposals_on_which_nobody_decides_the_last_one_stands(start) -> None:
    loop = await start("Propose", *ever_better(9), historyLimit=2)
    await loop.until(lambda: loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}, 200)
    await loop.bench.work(30, seconds=5.0)
    assert loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}


async def test_revisions_are_not_used_up_by_proposals_on_which_nobody_decides(start, monkeypatch) -> None:
    monkeypatch.setattr("moe_operator.rebalance.loop.MAX_STEP", 3)
    loop = await start("Propose", *ever_better(5), historyLimit=1)
    seen = []

    def said() -> bool:
        message = loop.status.get("lastDecision", {}).get("message", "")
        if message and (not seen or seen[-1] != message):
            seen.append(message)
        return len(loop.brain.finds) == 1 and "stands" in message

    await loop.until(said, 200)
    assert all(message.startswith("tiny-r") for message in seen), seen
    revisions = [int(message.partition(":")[0].rpartition("-r")[2]) for message in seen if "stands" not in message]
    assert len(revisions) == 5
    assert max(revisions) == 4, "what runs is 1"
    await loop.bench.work(5, seconds=1.0)
    phases = loop.bench.phases()
    (stands,) = [number for number, phase in phases.items() if phase == "Proposed"]
    assert stands == revisions[-1]
    # The last one can be decided on.
    loop.bench.decide(stands, "Approved")
    await loop.until(lambda: loop.bench.runs()[0] == stands)


async def test_a_proposal_that_is_decided_on_at_the_last_moment_stays(start, monkeypatch) -> None:
    monkeypatch.setattr("moe_operator.rebalance.loop.MAX_STEP", 3)
    loop = await start("Propose", *ever_better(4), historyLimit=1)
    real = loop.bench.kube.delete

    async def decided_before(resource, namespace, name, uid, version=None) -> None:
        if name == "tiny-r4" and loop.bench.placement(4)["spec"]["decision"] == "Pending":
            loop.bench.decide(4, "Approved")
        await real(resource, namespace, name, uid, version)

    monkeypatch.setattr(loop.bench.kube, "delete", decided_before)
    await loop.until(lambda: loop.bench.runs()[0] == 4)


async def test_what_a_person_wrote_stays_beside_proposals(start) -> None:
    loop = await start("Propose", nothing, better())
    write(loop.bench, 2, 1, SAME)
    await loop.until_phases(r1="Active", r2="Proposed", r3="Proposed")
    # The one that is approved makes the other one stale; a new look starts from what runs then.
    loop.bench.decide(2, "Approved")
    await loop.until(lambda: loop.bench.phases()[2] == "Verifying")
    await loop.until(lambda: loop.bench.phases()[3] == "Failed")
    assert loop.bench.judged(3, "Valid") == "False StaleBase"


async def test_approval_of_a_stale_proposal_is_refused_and_another_is_made(start) -> None:
    loop = await start("Propose", better(), better(SAME, 0.99))
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.change(experts={"shards": 3})
    await loop.until(lambda: loop.bench.phases()[2] == "Failed")
    loop.bench.decide(2, "Approved")
    await loop.bench.work(3, seconds=1.0)
    assert loop.bench.judged(2, "Approved") == "False Failed"
    assert loop.bench.judged(2, "Valid").split()[1] in ("StaleBase", "OtherShape")
    loop.brain.finds = [nothing]
    asked = len(loop.brain.asked)
    await loop.until(lambda: len(loop.brain.asked) > asked)
    assert loop.brain.asked[-1].ground.shards == 3
    assert loop.brain.asked[-1].ground.revision == loop.bench.runs()[0]


async def test_what_claims_to_be_of_the_operator_is_neither_approved_nor_in_the_way(start) -> None:
    """Whoever writes a field chooses the name it is set under, and an annotation of another object says nothing."""
    loop = await start("Auto", nothing, better())
    forged = manifest(content(SAME, 40, 1, FACTS.digest))
    fields = {**WRITTEN_BY_THE_OPERATOR, "fieldsV1": {"f:spec": {"f:content": {}}}}
    seal = loop.bench.placement(1)["metadata"]["annotations"]
    loop.bench.write({**forged, "metadata": {**forged["metadata"], "managedFields": [fields], "annotations": seal}})
    await loop.until(lambda: loop.bench.phases().get(40) == "Proposed")
    assert loop.bench.placement(40)["status"]["origin"] == "Person"
    loop.directory.balances = {1: 0.8, 2: 0.95}
    await loop.until(lambda: loop.bench.phases().get(2) == "Active")
    assert loop.bench.runs() == (2, OTHER)
    assert loop.bench.judged(40, "Valid") == "False StaleBase"


async def test_what_the_operator_wrote_and_died_before_it_told_is_its_own(start) -> None:
    loop = await start("Propose", better())
    await loop.until_phases(r1="Active", r2="Proposed")
    untold = {name: value for name, value in loop.bench.placement(2).items() if name != "status"}
    for seal, origin in ((untold["metadata"]["annotations"], "Operator"), ({}, "Person")):
        loop.bench.kube.drop(EXPERT_PLACEMENTS, "tiny-r2", "team")
        loop.bench.restart()
        loop.bench.write({**untold, "metadata": {**untold["metadata"], "annotations": seal}})
        await loop.until(lambda: "origin" in loop.bench.placement(2).get("status", {}))
        assert loop.bench.placement(2)["status"]["origin"] == origin


NIGHT = [{"cron": "0 2 * * *", "duration": "2h", "timeZone": "UTC"}]


async def test_what_was_found_in_a_window_is_not_approved_outside_it(start) -> None:
    """It is 3:20 at the beginning of a test."""
    loop = await start("Propose", better(), windows=NIGHT)
    loop.directory.balances = {1: 0.8, 2: 0.95, 3: 0.95}
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.now += 3 * 3600.0
    loop.bench.change(rebalance={"mode": "Auto", **EVERY, "windows": NIGHT})
    await loop.bench.work(5, seconds=1.0)
    assert (loop.bench.phases(), loop.bench.runs()[0]) == ({1: "Active", 2: "Proposed"}, 1)
    # In the next one the traffic is looked at anew first.
    loop.bench.now += 20 * 3600.0
    loop.brain.finds = [nothing]
    await loop.until(lambda: loop.decision == "Rejected GainBelowPrice")
    assert loop.bench.runs()[0] == 1


async def test_what_was_found_long_ago_is_not_approved(start) -> None:
    loop = await start("Propose", better())
    await loop.until_phases(r1="Active", r2="Proposed")
    await loop.bench.work(seconds=1.0)
    loop.brain.finds = [nothing]
    loop.bench.now += 3600.0
    loop.bench.change(rebalance={"mode": "Auto", **EVERY})
    await loop.bench.work(5, seconds=1.0)
    assert (loop.bench.phases()[2], loop.bench.runs()[0]) == ("Proposed", 1)
