"""The loop closed, pass by pass: by itself, paused or off, and though the operator dies; and what it costs."""

from typing import Any

import pytest
from bench import Bench
from crashes import KUBE_WRITES, Calls, Counted, Crash
from fake_kube import FakeKube
from rebalance_loop import Loop, better, nothing
from written_placements import OTHER


async def test_without_a_wish_nothing_is_looked_at(start) -> None:
    loop = await start("Off", better())
    await loop.bench.work(30, seconds=5.0)
    assert (loop.brain.asked, loop.status, loop.bench.phases()) == ([], {}, {1: "Active"})


async def test_auto_approves_what_it_proposes_and_verifies_it(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.95}
    await loop.until_phases(r1="Superseded", r2="Active")
    assert loop.bench.runs() == (2, OTHER)
    status = loop.bench.placement(2)["status"]
    assert (status["origin"], status["approvedBy"], loop.verified(2)) == ("Operator", "Operator", "True Verified")
    assert (status["before"]["balance"], status["measured"]["balance"]) == ("0.8004", "0.9500")
    told = [reason for reason in loop.bench.kube.reasons() if reason in ("Proposed", "Verified")]
    assert told == ["Proposed", "Verified"]


async def test_a_pause_stops_decisions_and_nothing_else(start) -> None:
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    await loop.until_phases(r1="Superseded", r2="Verifying")
    loop.bench.pause_rebalance()
    await loop.bench.work(20, seconds=15.0)
    assert loop.bench.condition("RebalancePaused") == "True Paused"
    assert (loop.bench.phases(), len(loop.brain.asked)) == ({1: "Superseded", 2: "Verifying"}, 1)
    assert "nextEvaluation" not in loop.status
    loop.bench.pause_rebalance(False)
    await loop.until(lambda: loop.bench.phases().get(2) == "RolledBack")
    assert loop.bench.condition("RebalancePaused") == "False AsExpected"


async def test_a_scale_that_overtakes_what_was_to_be_taken_back_rolls_nothing_back(start) -> None:
    """It was condemned, then somebody paused it, then the deployment was scaled."""
    loop = await start("Auto", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.4}
    await loop.until_phases(r1="Superseded", r2="Verifying")
    await loop.until(lambda: loop.verified(2) == "False GainMissing")
    loop.bench.pause_rebalance()
    await loop.bench.work(3, seconds=5.0)
    assert loop.bench.phases() == {1: "Superseded", 2: "Verifying"}
    loop.bench.change(experts={"shards": 3})
    await loop.until(lambda: loop.bench.phases().get(2) != "Verifying")
    assert loop.bench.phases()[2] == "Superseded"
    assert loop.verified(2) == "False Superseded"
    assert "RolledBack" not in loop.bench.kube.reasons()
    assert loop.counted("moe_operator_rebalance_rollbacks_total", origin="Operator") in (None, 0.0)


@pytest.mark.slow
async def test_a_death_after_any_write_changes_nothing_in_the_end(start, bench: Bench) -> None:
    """Of a life in which a proposal is made, approved, migrated to, found wanting and taken back."""

    async def live(fatal: int | None) -> tuple[Loop, int]:
        calls, kube, http = Calls(None), FakeKube(), bench.http
        bench.ray.configs.clear()
        bench.kube = kube
        # The content that did harm is found once: what is found later is worth nothing.
        loop = await start("Auto", lambda question: (better() if question.ground.revision == 1 else nothing)(question))
        loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8, 4: 0.8}

        def restart() -> None:
            bench.kube, bench.http = Counted(kube, calls, *KUBE_WRITES), Counted(http, calls, "call")  # type: ignore[assignment]
            bench.restart()
            bench.kube, bench.http = kube, http

        restart()
        calls.fatal = fatal
        for _ in range(30):
            try:
                await bench.work(seconds=4.0)
            except Crash:
                restart()
            phases = bench.phases()
            if "RolledBack" in phases.values() and phases[loop.bench.runs()[0]] == "Active":
                break
        return loop, calls.made

    loop, writes = await live(None)
    assert loop.bench.phases() == {1: "Superseded", 2: "RolledBack", 3: "Active"}
    first = loop.bench.runs()[1]
    assert 12 <= writes <= 40
    for fatal in range(1, writes + 1):
        loop, _ = await live(fatal)
        revision, placement = loop.bench.runs()
        phases = loop.bench.phases()
        assert placement == first, f"dead after write {fatal} of {writes}: {phases}"
        assert phases[revision] == "Active", f"dead after write {fatal} of {writes}: {phases}"
        # A proposal of which it had no time to tell what it foretells is replaced, and never approved by itself.
        assert list(phases.values()).count("RolledBack") == 1, f"dead after write {fatal} of {writes}: {phases}"


class CountingKube(FakeKube):
    """Counts writes of every kind."""

    writes = 0

    def _store(self, key: Any, body: Any) -> Any:
        self.writes += 1
        return super()._store(key, body)


async def test_looks_that_find_nothing_cost_the_api_server_little(start, bench: Bench) -> None:
    kube = bench.kube = CountingKube()
    loop = await start("Auto", nothing)
    await loop.until(lambda: "lastDecision" in loop.status)
    before, asked = kube.writes, len(loop.brain.asked)
    await loop.bench.work(100, seconds=10.0)
    looks = len(loop.brain.asked) - asked
    assert looks >= 45, "16 minutes, a look every 10 to 20 s"
    assert kube.writes - before <= 8
    # With nobody to look for it is silent.
    loop.bench.change(suspend=True)
    await loop.bench.work(5, seconds=5.0)
    before = kube.writes
    await loop.bench.work(30, seconds=20.0)
    assert kube.writes == before


async def test_an_observation_costs_little_too(start, bench: Bench) -> None:
    kube = bench.kube = CountingKube()
    loop = await start("Auto", better(), nothing, interval="1h", cooldown="1h")
    loop.directory.balances = {1: 0.8, 2: 0.8}
    await loop.bench.work(3, seconds=1800.0)
    await loop.until(lambda: loop.bench.phases().get(2) == "Verifying")
    await loop.bench.work(3, seconds=5.0)
    before = kube.writes
    for look in range(60):
        loop.directory.rows = 100 + look
        await loop.bench.work(seconds=30.0)
    assert loop.bench.phases()[2] == "Verifying"
    assert kube.writes - before <= 3
