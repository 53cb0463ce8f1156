"""What becomes of a proposal: it is decided on, gives way to a later one, or is of use no more."""

from fake_kube import WRITTEN_BY_THE_OPERATOR
from moe_facts import FACTS
from placement_objects import content, manifest
from rebalance_loop import EVERY, SAME, better, nothing
from written_placements import OTHER, write


async def test_a_proposal_with_a_price_waits_for_a_person(start) -> None:
    loop = await start("Propose", better())
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
    assert status["predicted"] == {"balance": "0.9500", "fanOut": "1.2000", "nodeFanOut": "0.0000"}
    assert status["before"] == {"balance": "0.8004", "fanOut": "1.5004", "nodeFanOut": "0.0000", "rows": 4000}
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
    finds = [better((OTHER, SAME)[look % 2], 0.5 + 0.03 * look) for look in range(9)]
    loop = await start("Propose", *finds, historyLimit=2)
    await loop.until(lambda: loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}, 200)
    await loop.bench.work(30, seconds=5.0)
    assert loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}


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
    """Whoever writes a field chooses the name it is set under."""
    loop = await start("Auto", nothing, better())
    forged = manifest(content(SAME, 40, 1, FACTS.digest))
    fields = {**WRITTEN_BY_THE_OPERATOR, "fieldsV1": {"f:spec": {"f:content": {}}}}
    loop.bench.write({**forged, "metadata": {**forged["metadata"], "managedFields": [fields]}})
    await loop.until(lambda: loop.bench.phases().get(40) == "Proposed")
    assert loop.bench.placement(40)["status"]["origin"] == "Operator"
    loop.directory.balances = {1: 0.8, 2: 0.95}
    await loop.until(lambda: loop.bench.phases().get(2) == "Active")
    assert loop.bench.runs() == (2, OTHER)
    assert loop.bench.judged(40, "Valid") == "False StaleBase"


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
