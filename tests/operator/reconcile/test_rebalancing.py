"""The loop closed, pass by pass: a look, a proposal, a decision, a migration, an observation, and the way back.

What the worker process finds and what the data plane counts is injected; objects, passes and times are real.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from bench import Bench
from crashes import KUBE_WRITES, Calls, Counted, Crash
from fake_kube import WRITTEN_BY_THE_OPERATOR, FakeKube
from fake_ray import FakeDirectory, JsonObject
from moe_facts import FACTS
from placement_objects import content, manifest, moved

from moe_contract.applications import DirectoryConfig
from moe_contract.report import DirectoryReport, EpochFigures, Traffic
from moe_operator.api import RebalanceReason
from moe_operator.kube.errors import ForbiddenError, KubeError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, Resource
from moe_operator.kube.resources import MOE_DEPLOYMENTS as MOE
from moe_operator.offload.errors import JobDelayedError, JobLostError, JobTooHeavyError
from moe_operator.placements.content import content_of
from moe_operator.rebalance.looks import ASIDE_SECONDS
from moe_operator.rebalance.proposal import Predicted, Price, Proposal, Question
from moe_placement import Placement
from moe_placement.encoding import decode_placement

OTHER = moved(FACTS.layers, FACTS.experts, 2, 4)
EVERY = {"interval": "10s", "cooldown": "10s"}
SAME = Placement.of(OTHER.slots[:, ::-1], OTHER.shard_slots, FACTS.experts)


@dataclass
class Brain:
    """Answers in place of the worker process.

    Attributes:
        finds: what the next looks find; the last one stays.
        asked: with what they were asked.
    """

    finds: list[Callable[[Question], Proposal]] = field(default_factory=list)
    asked: list[Question] = field(default_factory=list)

    async def run(self, owner: str, bounds: Any, job: Any, statistics: bytearray, question: Question) -> Proposal:
        self.asked.append(question)
        return (self.finds.pop(0) if len(self.finds) > 1 else self.finds[0])(question)


def nothing(question: Question) -> Proposal:
    return Proposal(False, RebalanceReason.GAIN_BELOW_PRICE, "gain 1.2% over 1h does not pay for 14 moves")


def better(of: Placement = OTHER, balance: float = 0.95) -> Callable[[Question], Proposal]:
    """A look that finds a placement."""

    def find(question: Question) -> Proposal:
        return Proposal(
            True, RebalanceReason.GAIN_PAYS, "gain 12% over 1h pays for 16 moves",
            content=content_of(of, question.revision, question.ground.revision, question.ground.digest),
            before=Predicted(0.8, 1.6, 0.0), after=Predicted(balance, 1.2, 0.0),
            met=Predicted(0.8004, 1.5004, 0.0), rows=4000.4,
            gain=0.12, price=Price(moves=16, bytes=1600, seconds=0.25),
        )  # fmt: skip

    return find


def fails(error: Exception) -> Callable[[Question], Proposal]:
    def find(question: Question) -> Proposal:
        raise error

    return find


@dataclass
class CountingDirectory(FakeDirectory):
    """Tells figures of the tables that were in force, by revision; ``balances`` are what each revision brings."""

    balances: dict[int, float] = field(default_factory=dict)
    rows: int = 5000

    def __call__(self, config: JsonObject) -> DirectoryReport | None:
        report = super().__call__(config)
        if report is None:
            return None
        counted = [number for number in sorted(self.balances) if number <= report.revision]
        epochs = tuple(
            EpochFigures(
                term=1, revision=number, epoch=number, rows=self.rows, pairs=2 * self.rows, failovers=0, fan_out=1.5,
                node_fan_out=0.0, shard_balance=self.balances[number], node_balance=1.0,
            )
            for number in counted
        )  # fmt: skip
        return report.model_copy(update={"traffic": Traffic(epochs=epochs[-8:])})


@dataclass
class Loop:
    """A bench, what finds placements for it, and what is counted of them."""

    bench: Bench
    brain: Brain
    directory: CountingDirectory

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.bench.kube.moe()["status"].get("rebalance", {})
        return found

    @property
    def decision(self) -> str:
        last = self.status["lastDecision"]
        return f"{last['result']} {last['reason']}"

    def condition(self, revision: int, kind: str) -> str:
        found = next(c for c in self.bench.placement(revision)["status"]["conditions"] if c["type"] == kind)
        return f"{found['status']} {found['reason']}"

    def verified(self, revision: int) -> str:
        return self.condition(revision, "Verified")

    def runs(self) -> tuple[int, Placement]:
        deployments = self.bench.ray.configs[self.bench.core]["deployments"]
        told = next(d["user_config"] for d in deployments if d["name"] == "directory")
        config = DirectoryConfig.model_validate(told)
        assert config.placement is not None
        return config.revision, decode_placement(config.placement)

    def counted(self, metric: str, **labels: str) -> float | None:
        return self.bench.metrics.registry.get_sample_value(metric, labels)

    async def until(self, what: Callable[[], bool], passes: int = 60) -> None:
        for _ in range(passes):
            if what():
                return
            await self.bench.work(seconds=1.0)
        raise AssertionError(f"not within {passes} s: {self.bench.phases()}, {self.status}")

    async def until_phases(self, **phases: str) -> None:
        wanted = {int(name.removeprefix("r")): phase for name, phase in phases.items()}
        await self.until(lambda: self.bench.phases() == wanted)


@pytest.fixture
async def start(bench: Bench) -> Callable[..., Any]:
    async def make(mode: str, *finds: Callable[[Question], Proposal], **rebalance: Any) -> Loop:
        directory = CountingDirectory(FACTS)
        bench.directory, bench.ray.report = directory, directory
        bench.worker = Brain(list(finds) or [nothing])
        bench.restart()
        bench.apply(rebalance={"mode": mode, **EVERY, **rebalance})
        await bench.ready()
        await bench.work(2, seconds=1.0)
        return Loop(bench, bench.worker, directory)

    return make


async def test_without_a_wish_nothing_is_looked_at(start) -> None:
    loop = await start("Off", better())
    await loop.bench.work(30, seconds=5.0)
    assert (loop.brain.asked, loop.status, loop.bench.phases()) == ([], {}, {1: "Active"})


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
    assert (loop.condition(2, "Valid"), loop.condition(2, "Approved")) == ("True Fits", "False Pending")
    assert loop.decision == "Accepted GainPays"
    assert loop.status["lastDecision"]["message"] == "tiny-r2: gain 12% over 1h pays for 16 moves"
    assert loop.status["nextEvaluation"] > loop.status["lastDecision"]["time"]
    assert "Proposed" in loop.bench.kube.reasons()
    # Nothing moves, however long nobody decides; and what is found again is not written again.
    await loop.bench.work(30, seconds=10.0)
    assert (loop.runs()[0], loop.bench.phases()) == (1, {1: "Active", 2: "Proposed"})
    assert len(loop.brain.asked) > 10
    assert "tiny-r2, proposed before, stands" in loop.status["lastDecision"]["message"]
    # As the question says what it depends on.
    asked = loop.brain.asked[0]
    assert (asked.ground.revision, asked.ground.shards, asked.revision, asked.least_gain) == (1, 2, 2, 0.03)


async def test_what_a_person_approves_is_migrated_to_and_never_taken_back_by_itself(start) -> None:
    loop = await start("Propose", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.4}
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.decide(2, "Approved")
    await loop.until_phases(r1="Superseded", r2="Verifying")
    assert loop.runs() == (2, OTHER)
    await loop.until_phases(r1="Superseded", r2="Active")
    status = loop.bench.placement(2)["status"]
    assert (status["approvedBy"], loop.verified(2)) == ("Person", "False KeptThoughWorse")
    assert (status["before"]["balance"], status["measured"]["balance"]) == ("0.8004", "0.4000")


async def test_a_later_proposal_takes_the_place_of_one_that_nobody_decided_on(start) -> None:
    loop = await start("Propose", better(), better(SAME, balance=0.99), historyLimit=1)
    await loop.until_phases(r1="Active", r2="Failed", r3="Proposed")
    assert loop.condition(2, "Valid") == "False Superseded"
    # Nor is it any more use to approve it.
    loop.bench.decide(2, "Approved")
    await loop.bench.work(3, seconds=1.0)
    assert (loop.runs()[0], loop.condition(2, "Approved")) == (1, "False Failed")
    # Of what is over as many are kept as asked for.
    loop.brain.finds = [better(OTHER, balance=0.90)]
    await loop.until_phases(r1="Active", r3="Failed", r4="Proposed")


async def test_what_a_person_wrote_stays_beside_proposals(start) -> None:
    loop = await start("Propose", nothing, better())
    loop.bench.write(manifest(content(SAME, 2, 1, FACTS.digest)))
    await loop.until_phases(r1="Active", r2="Proposed", r3="Proposed")
    # The one that is approved makes the other one stale; a new look starts from what runs then.
    loop.bench.decide(2, "Approved")
    await loop.until(lambda: loop.bench.phases()[2] == "Verifying")
    await loop.until(lambda: loop.bench.phases()[3] == "Failed")
    assert loop.condition(3, "Valid") == "False StaleBase"


async def test_approval_of_a_stale_proposal_is_refused_and_another_is_made(start) -> None:
    loop = await start("Propose", better(), better(SAME, 0.99))
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.change(experts={"shards": 3})
    await loop.until(lambda: loop.bench.phases()[2] == "Failed")
    loop.bench.decide(2, "Approved")
    await loop.bench.work(3, seconds=1.0)
    assert loop.condition(2, "Approved") == "False Failed"
    assert loop.condition(2, "Valid").split()[1] in ("StaleBase", "OtherShape")
    loop.brain.finds = [nothing]
    asked = len(loop.brain.asked)
    await loop.until(lambda: len(loop.brain.asked) > asked)
    assert loop.brain.asked[-1].ground.shards == 3
    assert loop.brain.asked[-1].ground.revision == loop.runs()[0]


@pytest.mark.parametrize(
    ("find", "decision"),
    [
        (nothing, "Rejected GainBelowPrice"),
        (fails(JobTooHeavyError("took more than 5 s")), "Failed PlanningTooHeavy"),
        (fails(JobDelayedError("others kept the worker process busy for 120 s")), "Failed PlanningDelayed"),
        (fails(JobLostError("the worker process ended with -9")), "Failed PlanningDelayed"),
        (fails(RuntimeError("a defect")), "Failed PlanningDelayed"),
        *(
            (lambda question, reason=reason: Proposal(False, reason, "why"), f"{result} {reason}")
            for result, reasons in {
                "Failed": (RebalanceReason.STATISTICS_DAMAGED, RebalanceReason.NOT_PLANNABLE),
                "Rejected": (RebalanceReason.NO_TRAFFIC, RebalanceReason.TOO_LITTLE_TRAFFIC, RebalanceReason.ONE_SHARD),
            }.items()
            for reason in reasons
        ),
    ],
)
async def test_no_is_told_with_its_reason(start, find: Callable[[Question], Proposal], decision: str) -> None:
    loop = await start("Auto", find)
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == decision
    assert (loop.bench.phases(), loop.runs()[0]) == ({1: "Active"}, 1)
    result, reason = decision.split()
    assert loop.counted("moe_operator_rebalance_decisions_total", result=result, reason=reason) == 1.0
    # It goes on; what was too heavy after a while.
    loop.brain.finds = [better()]
    loop.bench.now += ASIDE_SECONDS if reason == "PlanningTooHeavy" else 0.0
    await loop.until(lambda: 2 in loop.bench.phases())


async def test_statistics_that_cannot_be_had_are_told_of(start, bench: Bench) -> None:
    loop = await start("Auto", better())

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path.endswith("/internal/statistics"):
            return web.Response(status=500)
        return await bench.ray.answer(request)

    bench.ray.override = answer
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed StatisticsMissing"
    assert "/team/tiny/internal/statistics answers HTTP 500" in loop.status["lastDecision"]["message"]
    bench.ray.override = None
    await loop.until(lambda: 2 in bench.phases())


async def test_what_is_damaged_comes_to_the_planner_and_is_told_of(start, bench: Bench) -> None:
    """With the planner itself, here in place of the worker process."""
    loop = await start("Auto", better())
    bench.looks.worker = None
    bench.ray.statistics = b"no statistics"
    bench.ray.report = lambda config: with_nodes(loop.directory(config))
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed StatisticsDamaged"


def with_nodes(report: DirectoryReport | None) -> DirectoryReport | None:
    if report is None:
        return None
    shards = tuple(shard.model_copy(update={"node": "n"}) for shard in report.shards)
    return report.model_copy(update={"shards": shards})


class NoPlacements(FakeKube):
    """Refuses to make ExpertPlacements from the second on."""

    async def create(self, resource: Resource, body: Any) -> Any:
        if resource == EXPERT_PLACEMENTS and body["spec"]["content"]["revision"] > 1:
            raise ForbiddenError("exceeded quota: placements", 403)
        return await super().create(resource, body)


async def test_a_proposal_that_the_api_server_refuses_is_told_of(start, bench: Bench) -> None:
    bench.kube = NoPlacements()
    loop = await start("Auto", better())
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed GainPays"
    assert "exceeded quota: placements" in loop.status["lastDecision"]["message"]


async def test_auto_approves_what_it_proposes_and_verifies_it(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances = {1: 0.8, 2: 0.95}
    await loop.until_phases(r1="Superseded", r2="Active")
    assert loop.runs() == (2, OTHER)
    status = loop.bench.placement(2)["status"]
    assert (status["origin"], status["approvedBy"], loop.verified(2)) == ("Operator", "Operator", "True Verified")
    assert (status["before"]["balance"], status["measured"]["balance"]) == ("0.8004", "0.9500")
    told = [reason for reason in loop.bench.kube.reasons() if reason in ("Proposed", "Verified")]
    assert told == ["Proposed", "Verified"]


async def test_what_did_harm_is_taken_back_under_a_revision_of_its_own(start) -> None:
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    first = loop.runs()[1]
    await loop.until_phases(r1="Superseded", r2="RolledBack", r3="Active")
    assert loop.runs() == (3, first)
    back = loop.bench.placement(3)
    assert back["spec"]["content"]["layers"] == content(first, 3, 2, FACTS.digest)["layers"]
    assert (back["spec"]["content"]["baseRevision"], back["status"]["origin"]) == (2, "Operator")
    assert (loop.verified(2), loop.verified(3)) == ("False GainMissing", "Unknown NotVerified")
    events = [
        e for (plural, *_), e in loop.bench.kube.objects.items() if plural == "events" and e["reason"] == "RolledBack"
    ]
    (event,) = events
    assert (event["regarding"]["kind"], event["type"]) == ("MoEDeployment", "Warning")
    assert event["note"].startswith("tiny-r2: ")
    assert "balance 0.800 -> 0.400" in event["note"]
    assert loop.counted("moe_operator_rebalance_rollbacks_total", origin="Operator") == 1.0


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
    assert loop.runs()[1] != OTHER


@pytest.mark.parametrize(("rollback", "phase", "verified"), [
    ("Always", "RolledBack", "False GainMissing"),
    ("Auto", "Active", "False KeptThoughWorse"),
    ("Never", "Active", "False KeptThoughWorse"),
])  # fmt: skip
async def test_what_a_person_wrote(start, rollback: str, phase: str, verified: str) -> None:
    loop = await start("Propose", nothing, rollback=rollback)
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    loop.bench.write(manifest(content(OTHER, 2, 1, FACTS.digest)))
    await loop.bench.work(2, seconds=1.0)
    loop.bench.decide(2, "Approved")
    await loop.until(lambda: loop.bench.phases()[2] == phase)
    assert loop.verified(2) == verified
    assert loop.runs()[0] == (3 if phase == "RolledBack" else 2)


async def test_without_comparable_traffic_it_stays_unverified(start) -> None:
    loop = await start("Auto", better(), nothing)
    loop.directory.balances, loop.directory.rows = {1: 0.8, 2: 0.4}, 20
    await loop.until_phases(r1="Superseded", r2="Verifying")
    await loop.bench.work(15, seconds=1.0)
    assert loop.bench.phases()[2] == "Verifying"
    await loop.until_phases(r1="Superseded", r2="Active")
    assert loop.verified(2) == "Unknown NotVerified"


async def test_a_pause_stops_decisions_and_nothing_else(start) -> None:
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8, 2: 0.4, 3: 0.8}
    await loop.until_phases(r1="Superseded", r2="Verifying")
    live = loop.bench.kube.moe()
    pause = {**live["metadata"], "annotations": {"moe-operator.io/pause-rebalance": "true"}}
    loop.bench.kube.put(MOE, {**live, "metadata": pause})
    await loop.bench.work(20, seconds=15.0)
    assert loop.bench.condition("RebalancePaused") == "True Paused"
    assert (loop.bench.phases(), len(loop.brain.asked)) == ({1: "Superseded", 2: "Verifying"}, 1)
    assert "nextEvaluation" not in loop.status
    live = loop.bench.kube.moe()
    loop.bench.kube.put(MOE, {**live, "metadata": {**live["metadata"], "annotations": {}}})
    await loop.until(lambda: loop.bench.phases().get(2) == "RolledBack")
    assert loop.bench.condition("RebalancePaused") == "False AsExpected"


async def test_a_death_after_any_write_changes_nothing_in_the_end(bench: Bench) -> None:
    """Of a life in which a proposal is made, approved, migrated to, found wanting and taken back."""

    async def live(fatal: int | None) -> tuple[Loop, int]:
        calls, kube, http = Calls(None), FakeKube(), bench.http
        directory = CountingDirectory(FACTS, balances={1: 0.8, 2: 0.4, 3: 0.8, 4: 0.8})
        bench.ray.configs.clear()
        bench.directory, bench.ray.report = directory, directory
        # The content that did harm is found once: what is found later is worth nothing.
        bench.worker = Brain([lambda question: (better() if question.ground.revision == 1 else nothing)(question)])
        bench.kube = kube
        bench.restart()
        bench.apply(rebalance={"mode": "Auto", **EVERY})
        await bench.ready()
        await bench.work(2, seconds=1.0)

        def restart() -> None:
            bench.kube, bench.http = Counted(kube, calls, *KUBE_WRITES), Counted(http, calls, "call")  # type: ignore[assignment]
            bench.restart()
            bench.kube, bench.http = kube, http

        restart()
        calls.fatal = fatal
        loop = Loop(bench, bench.worker, directory)
        for _ in range(30):
            try:
                await bench.work(seconds=4.0)
            except Crash:
                restart()
            phases = bench.phases()
            if "RolledBack" in phases.values() and phases[loop.runs()[0]] == "Active":
                break
        return loop, calls.made

    loop, writes = await live(None)
    assert loop.bench.phases() == {1: "Superseded", 2: "RolledBack", 3: "Active"}
    first = loop.runs()[1]
    assert 12 <= writes <= 40
    for fatal in range(1, writes + 1):
        loop, _ = await live(fatal)
        revision, placement = loop.runs()
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


class DeafKube(FakeKube):
    """The API server, which answers 503 on chosen writes of ExpertPlacements beyond the first.

    Attributes:
        deaf: verbs that it does not take now.
    """

    deaf: tuple[str, ...] = ()

    def _take(self, verb: str, resource: Resource, name: str) -> None:
        if verb in self.deaf and resource == EXPERT_PLACEMENTS and name != "tiny-r1":
            raise KubeError("the API server is busy", 503)

    async def create(self, resource: Resource, body: Any) -> Any:
        self._take("create", resource, body["metadata"]["name"])
        return await super().create(resource, body)

    async def replace(self, resource: Resource, body: Any, subresource: str | None = None) -> Any:
        self._take(subresource or "replace", resource, body["metadata"]["name"])
        return await super().replace(resource, body, subresource)


@pytest.mark.parametrize("deaf", ["create", "status"])
async def test_what_could_not_be_written_whole_is_not_accepted_and_never_migrated_to(
    start, bench: Bench, deaf: str
) -> None:
    kube = bench.kube = DeafKube()
    loop = await start("Auto", better())
    loop.directory.balances = {1: 0.8, 2: 0.9, 3: 0.9, 4: 0.9}
    kube.deaf = (deaf,)
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed GainPays"
    assert "did not take ExpertPlacement" in loop.status["lastDecision"]["message"]
    assert "revision" not in loop.status["lastDecision"]
    assert "Proposed" not in kube.reasons()
    kube.deaf = ()
    last = 2 if deaf == "create" else 3
    await loop.until(lambda: loop.bench.phases().get(last) == "Active")
    assert loop.verified(last) == "True Verified"
    assert deaf == "create" or loop.bench.phases()[2] == "Failed"
    assert loop.runs()[0] == last


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
    assert loop.runs() == (2, OTHER)
    assert loop.condition(40, "Valid") == "False StaleBase"


async def test_of_many_proposals_on_which_nobody_decides_the_last_one_stands(start) -> None:
    finds = [better((OTHER, SAME)[look % 2], 0.5 + 0.03 * look) for look in range(9)]
    loop = await start("Propose", *finds, historyLimit=2)
    await loop.until(lambda: loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}, 200)
    await loop.bench.work(30, seconds=5.0)
    assert loop.bench.phases() == {1: "Active", 8: "Failed", 9: "Failed", 10: "Proposed"}


NIGHT = [{"cron": "0 2 * * *", "duration": "2h", "timeZone": "UTC"}]


async def test_what_was_found_in_a_window_is_not_approved_outside_it(start) -> None:
    """It is 3:20 at the beginning of a test."""
    loop = await start("Propose", better(), windows=NIGHT)
    loop.directory.balances = {1: 0.8, 2: 0.95, 3: 0.95}
    await loop.until_phases(r1="Active", r2="Proposed")
    loop.bench.now += 3 * 3600.0
    loop.bench.change(rebalance={"mode": "Auto", **EVERY, "windows": NIGHT})
    await loop.bench.work(5, seconds=1.0)
    assert (loop.bench.phases(), loop.runs()[0]) == ({1: "Active", 2: "Proposed"}, 1)
    # In the next one the traffic is looked at anew first.
    loop.bench.now += 20 * 3600.0
    loop.brain.finds = [nothing]
    await loop.until(lambda: loop.decision == "Rejected GainBelowPrice")
    assert loop.runs()[0] == 1


async def test_what_was_found_long_ago_is_not_approved(start) -> None:
    loop = await start("Propose", better())
    await loop.until_phases(r1="Active", r2="Proposed")
    await loop.bench.work(seconds=1.0)
    loop.brain.finds = [nothing]
    loop.bench.now += 3600.0
    loop.bench.change(rebalance={"mode": "Auto", **EVERY})
    await loop.bench.work(5, seconds=1.0)
    assert (loop.bench.phases()[2], loop.runs()[0]) == ("Proposed", 1)


async def test_whatever_is_said_of_a_decision_can_be_told(start, bench: Bench) -> None:
    class Wordy(NoPlacements):
        async def create(self, resource: Resource, body: Any) -> Any:
            try:
                return await super().create(resource, body)
            except ForbiddenError as error:
                raise ForbiddenError("no " * 3000, 403) from error

    bench.kube = Wordy()
    loop = await start("Auto", better())
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed GainPays"
    assert len(loop.status["lastDecision"]["message"]) == 4096
    loop.brain.finds = [lambda question: Proposal(False, RebalanceReason.NOT_PLANNABLE, "why " * 3000)]
    await loop.until(lambda: loop.decision == "Failed NotPlannable")
    assert len(loop.status["lastDecision"]["message"]) == 4096
