"""What each look comes to is told, whatever goes wrong on the way."""

from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web
from bench import Bench
from fake_kube import FakeKube
from rebalance_loop import better, nothing

from moe_operator.api import RebalanceReason
from moe_operator.kube.errors import ForbiddenError, KubeError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, Resource
from moe_operator.offload.errors import JobDelayedError, JobLostError, JobTooHeavyError
from moe_operator.rebalance.looks import ASIDE_SECONDS
from moe_operator.rebalance.proposal import Proposal, Question


def fails(error: Exception) -> Callable[[Question], Proposal]:
    def find(question: Question) -> Proposal:
        raise error

    return find


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
    assert (loop.bench.phases(), loop.bench.runs()[0]) == ({1: "Active"}, 1)
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
    loop.directory.nodes = ("n",)
    await loop.until(lambda: "lastDecision" in loop.status)
    assert loop.decision == "Failed StatisticsDamaged"


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
    assert loop.bench.runs()[0] == last
