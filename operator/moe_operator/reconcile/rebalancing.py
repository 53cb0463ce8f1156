"""What a pass does for ``spec.rebalance``: begins a look at the traffic when one is due, and has what came of the last
one written, told and, with mode Auto, approved. ``rebalance`` decides."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial

from moe_contract.model import ModelFacts
from moe_contract.report import DirectoryReport
from moe_operator.api import MoEDeployment, RebalanceMode, RebalanceResult
from moe_operator.api.phase import Phase
from moe_operator.api.reasons import PlacementReason
from moe_operator.api.status import MAX_MESSAGE, TIME_FORMAT, LastDecision, RebalanceStatus, time_told
from moe_operator.kube.events import EventNote, EventRecorder
from moe_operator.placements.book import Book, phase_of
from moe_operator.placements.choice import Standing
from moe_operator.placements.keeper import PlacementKeeper
from moe_operator.placements.story import proposed_status
from moe_operator.rebalance.looks import Looks
from moe_operator.rebalance.loop import Conclusion, Look, conclude, figures, price, to_approve
from moe_operator.rebalance.proposal import Proposal, Question
from moe_operator.rebalance.schedule import Past, evaluation, standstill
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.placing import ground_of, next_revision
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import Runtime
from moe_operator.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Rebalancing:
    """Its parts; without ``looks`` nothing is looked at."""

    keeper: PlacementKeeper
    events: EventRecorder
    looks: Looks
    metrics: Metrics

    async def turn(self, world: World, intent: Intent, runtime: Runtime) -> RebalanceStatus | None:
        """One pass; returns what is told of it in the status."""
        moe = world.moe
        if moe.spec.rebalance.mode is RebalanceMode.OFF:
            self.looks.forget(moe.key)
            return None
        told = moe.status.rebalance or RebalanceStatus()
        look = self.looks.take(moe.key, moe.metadata.uid)
        # What began before somebody paused it, or from another revision, is not told of: another one is due later.
        if look and look.base == world.target.revision == intent.target.revision and not standstill(moe, world.now):
            told = RebalanceStatus(last_decision=await self._conclude(look, world))
        moe = moe.model_copy(update={"status": moe.status.model_copy(update={"rebalance": told})})
        book = self.keeper.store.book(moe.key)
        due = evaluation(moe, Past.of(moe, book.placements), world.now)
        quiet = _is_quiet(world, intent, book)
        if quiet and due.due:
            self._begin(world, runtime)
        if quiet and world.facts:
            await self._approve(moe, world, told, book)
        return told.model_copy(update={"next_evaluation": due.at.strftime(TIME_FORMAT) if due.at else None})

    async def _conclude(self, look: Look, world: World) -> LastDecision:
        """Write what was found, if that is anything."""
        moe = world.moe
        concluded = conclude(look, moe, self.keeper.store.book(moe.key))
        decision = concluded.decision
        if concluded.proposed:
            decision = await self._propose(concluded, concluded.proposed, moe)
        self.metrics.rebalance_decided(decision.result, decision.reason)
        return decision

    async def _propose(self, concluded: Conclusion, proposal: Proposal, moe: MoEDeployment) -> LastDecision:
        if proposal.content is None or proposal.after is None:
            return concluded.decision
        met = figures(proposal.met, proposal.rows) if proposal.met else None
        status = proposed_status(met, figures(proposal.after), price(proposal), concluded.decision.message)
        refusal = await self.keeper.propose(moe, proposal.content, status, concluded.instead)
        if refusal:
            message = f"{concluded.decision.message}; but {refusal}"[:MAX_MESSAGE]
            failed = {"result": RebalanceResult.FAILED, "message": message, "revision": None}
            return concluded.decision.model_copy(update=failed)
        note = EventNote("Normal", PlacementReason.PROPOSED, concluded.decision.message, action="Place")
        await self.events.record(moe, note)
        return concluded.decision

    def _begin(self, world: World, runtime: Runtime) -> None:
        moe, facts, report = world.moe, world.facts, world.report
        if facts is None or report is None or world.target.placement is None:
            return
        question = _question(world, facts, report)
        read = partial(runtime.statistics, moe, world.runtime)
        every = moe.spec.rebalance.every
        self.looks.begin(moe.key, moe.metadata.uid, runtime.where, world.now, every, question, read)

    async def _approve(self, moe: MoEDeployment, world: World, told: RebalanceStatus, book: Book) -> None:
        proposal = to_approve(moe, told, book, world.target.revision, world.now)
        if proposal:
            await self.keeper.approve(moe, proposal)


def _question(world: World, facts: ModelFacts, report: DirectoryReport) -> Question:
    wanted = world.moe.spec.rebalance
    by_index = sorted(report.shards, key=lambda shard: shard.index)
    return Question(
        now=0.0,
        ground=ground_of(world, facts),
        revision=next_revision(world),
        running=world.target.placement or "",
        nodes=tuple(shard.node for shard in by_index),
        bytes_per_expert=facts.bytes_per_expert,
        dtype="FP8" if facts.weights == "FP8" else facts.dtype,
        rows_per_step=_rows_per_step(report),
        link=wanted.link,
        least_gain=wanted.min_gain_percent / 100.0,
        horizon=wanted.serves_for.total_seconds(),
        max_bytes_per_second=wanted.bytes_per_second,
        attention=_attention_nodes(report),
    )


def _rows_per_step(report: DirectoryReport) -> float:
    """Tokens that go through a layer together: the mean of lately, or else the requests that run."""
    counted = report.figures.rows_per_step if report.figures else 0.0
    return counted or float(sum(replica.running for replica in report.attention))


def _attention_nodes(report: DirectoryReport) -> tuple[str, ...]:
    """Of the replicas that answer; nothing where one does not say where it is."""
    nodes = tuple(replica.node for replica in report.attention if replica.ready)
    return nodes if all(nodes) else ()


def _is_quiet(world: World, intent: Intent, book: Book) -> bool:
    """Whether what runs is what shall run, is whole and is kept, so that a plan may start from it."""
    own = book.at(world.target.revision)
    return bool(
        intent.step is Step.RUN
        and intent.problem is None
        and intent.change is None
        and intent.choice.standing is Standing.EXPRESSED
        and intent.target.revision == world.target.revision
        and world.settled
        and world.report
        and all(shard.phase == "Ready" for shard in world.report.shards)
        and own
        and phase_of(own) is Phase.ACTIVE
    )


def seconds_until(told: RebalanceStatus | None, now: datetime) -> float | None:
    """Until the next look; None where it is due, or not known when."""
    at = time_told(told.next_evaluation) if told and told.next_evaluation else None
    return (at - now).total_seconds() if at and at > now else None
