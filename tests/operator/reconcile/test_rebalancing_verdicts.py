"""What is observed of a placement that was migrated to, and the way back."""

import itertools

import pytest
from moe_facts import FACTS
from placement_objects import content
from rebalance_loop import better, nothing
from written_placements import OTHER, write


async def test_what_a_person_approves_is_migrated_to_and_never_taken_back_by_itself(start) -> None:
    loop = await start("Propose", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.4}
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.decide(2, "Approved")
    await loop.until_phases(r1="Superseded", r2="Verifying")
    assert loop.bench.runs() == (2, OTHER)
    await loop.until_phases(r1="Superseded", r2="Active")
    status = loop.bench.placement(2)["status"]
    assert (status["approvedBy"], loop.verified(2)) == ("Person", "False KeptThoughWorse")
    assert (status["before"]["balance"], status["measured"]["balance"]) == ("0.8004", "0.4000")


async def test_what_did_harm_is_taken_back_under_a_revision_of_its_own(start) -> None:
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    first = loop.bench.runs()[1]
    await loop.until_phases(r1="Superseded", r2="RolledBack", r3="Active")
    assert loop.bench.runs() == (3, first)
    back = loop.bench.placement(3)
    assert back["spec"]["content"]["layers"] == content(first, 3, 2, FACTS.digest)["layers"]
    assert (back["spec"]["content"]["baseRevision"], back["status"]["origin"]) == (2, "Operator")
    assert (loop.verified(2), loop.verified(3)) == ("False GainMissing", "Unknown NotVerified")
    (event,) = [each for each in loop.bench.kube.events() if each["reason"] == "RolledBack"]
    assert (event["regarding"]["kind"], event["type"]) == ("MoEDeployment", "Warning")
    assert event["note"].startswith("tiny-r2: ")
    assert "balance 0.800 -> 0.400" in event["note"]
    assert loop.counted("moe_operator_rebalance_rollbacks_total", origin="Operator") == 1.0


async def test_what_makes_tokens_slower_is_taken_back_whatever_else_it_brings(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.95, 3: 0.8}
    loop.directory.milliseconds = {1: 10, 2: 20, 3: 10}
    await loop.until_phases(r1="Superseded", r2="Verifying")
    await loop.bench.work(15, seconds=1.0)
    assert loop.verified(2) == "Unknown Observing", "other work on the machine may make tokens slow for a while"
    await loop.bench.work(26, seconds=10.0)
    assert loop.verified(2) == "Unknown Observing", "also for minutes, of which windows of 10 s know nothing"
    await loop.until_phases(r1="Superseded", r2="RolledBack", r3="Active")
    assert loop.verified(2) == "False TokensSlower"
    status = loop.bench.placement(2)["status"]
    took = [status[part]["latency"][0]["medianMicroseconds"] for part in ("before", "measured")]
    assert took == [10_000, 20_000]
    (event,) = [each for each in loop.bench.kube.events() if each["reason"] == "RolledBack"]
    assert "a token took 10 -> 20 ms (+100.0%) in steps of as many rows" in event["note"]


async def test_what_makes_tokens_no_slower_stays(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.95}
    loop.directory.milliseconds = {1: 10, 2: 10.5}
    await loop.until_phases(r1="Superseded", r2="Active")
    assert loop.verified(2) == "True Verified"
    (verified,) = [each for each in loop.bench.placement(2)["status"]["conditions"] if each["type"] == "Verified"]
    assert "a token took 10 -> 10.5 ms (+5.0%) in steps of as many rows" in verified["message"]


@pytest.mark.slow
async def test_repeated_rollbacks_back_off(start) -> None:
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8} | {number: 0.8 if number % 2 else 0.4 for number in range(2, 40)}
    times = []
    for count in range(1, 5):
        await loop.until(lambda count=count: list(loop.bench.phases().values()).count("RolledBack") >= count, 400)
        times.append(loop.bench.now)
    waits = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert waits == sorted(waits)
    assert waits[-1] > 1.5 * waits[0]
    assert loop.bench.runs()[1] != OTHER


@pytest.mark.parametrize(("rollback", "phase", "verified"), [
    ("Always", "RolledBack", "False GainMissing"),
    ("Auto", "Active", "False KeptThoughWorse"),
    ("Never", "Active", "False KeptThoughWorse"),
])  # fmt: skip
async def test_what_a_person_wrote(start, rollback: str, phase: str, verified: str) -> None:
    loop = await start("Propose", nothing, rollback=rollback)
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    write(loop.bench, 2, 1, OTHER)
    await loop.bench.work(2, seconds=1.0)
    loop.bench.decide(2, "Approved")
    await loop.until(lambda: loop.bench.phases()[2] == phase)
    assert loop.verified(2) == verified
    assert loop.bench.runs()[0] == (3 if phase == "RolledBack" else 2)


async def test_without_comparable_traffic_it_stays_unverified(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances, loop.directory.rows = {1: 0.8, 2: 0.4}, 20
    await loop.until_phases(r1="Superseded", r2="Verifying")
    await loop.bench.work(15, seconds=1.0)
    assert loop.bench.phases()[2] == "Verifying"
    await loop.until_phases(r1="Superseded", r2="Active")
    assert loop.verified(2) == "Unknown NotVerified"
