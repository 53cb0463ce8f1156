"""The directory's loop: watch the shards, decide, publish, give orders; answer attention and the operator meanwhile.

Run by the Serve deployment (``moe_serving.serve.directory``) and by tests. All state but the target is rebuilt from
what shards and attention replicas say, so a restart needs nothing from disk. One event loop, no locks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import numpy as np

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardRef
from moe_contract.base import CONTRACT
from moe_contract.model import ModelFacts, ModelProblem
from moe_contract.report import DirectoryReport, Fetched, Progress
from moe_placement.encoding import encode_placement
from moe_serving.changes import Changes
from moe_serving.directory.actions import Actions, Situation, next_actions
from moe_serving.directory.apis import ApiReply, Apis, ApiSync
from moe_serving.directory.candidate import INSPECT_AGAIN_SECONDS, Candidate, problem_of
from moe_serving.directory.errors import ConfigRefusedError
from moe_serving.directory.leases import Leases
from moe_serving.directory.messages import StatisticsReport, SyncReply, SyncRequest
from moe_serving.directory.monitor import ShardClient, ShardMonitor
from moe_serving.directory.publication import Publication
from moe_serving.directory.reporting import (
    as_placement,
    report_attention,
    report_fetched,
    report_progress,
    report_shard,
    sum_fetched,
)
from moe_serving.directory.sources import are_outdated, hold_back, order_loads
from moe_serving.directory.statistics import StatisticsStore
from moe_serving.directory.target import Target, read_target
from moe_serving.directory.traffic import TrafficCounts
from moe_serving.faults import FaultPoint, reached
from moe_serving.fetching.asking import Cached
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.routing.table import RoutingTable
from moe_serving.unknown import tell_unknown

TURN_SECONDS = 0.25
"""Between two turns at least: a migration takes a few, and actions for a large model take 64 ms to find."""
LEGACY_SECONDS = 10.0
"""Between two looks at whether replicas are gone that have left statistics."""
FETCHED_SECONDS = 1.0
"""Between two looks at how much of a model has been fetched."""
HEARING_SECONDS = 10.0
"""How long a directory that has just started waits for every shard to answer before it publishes its first table:
attention routes by the table of its predecessor meanwhile, and one that lacks live shards would be worse."""

_Basis = tuple[int, tuple[tuple[int, str], ...], int, int]
"""What a situation is made from: numbers of the configuration and of what each shard said, the phases of shards, the
epoch acknowledged and the one in force."""

logger = logging.getLogger(__name__)


class Directory:
    """See the module.

    Args:
        model: the one to serve.
        inspect: looks at a model; runs in a thread; raises ModelError.
        connect: makes the client of a shard.
        clock: monotonic seconds.
        inspect_candidate: looks at a model that is to take the place of that one, and of which some files are cached
            where they are needed; by default as ``inspect``.
    """

    def __init__(
        self,
        model: ModelArgs,
        inspect: Callable[[ModelArgs], ModelFacts],
        connect: Callable[[ShardRef], ShardClient],
        clock: Callable[[], float] = time.monotonic,
        inspect_candidate: Callable[[ModelArgs, Cached], ModelFacts] | None = None,
    ) -> None:
        self._args = model
        self._inspect = inspect
        self._candidate = Candidate(inspect_candidate or (lambda args, cached: inspect(args)), self._cached)
        self._connect = connect
        self._clock = clock
        self._model: _Model | None = None
        self._fetched: Fetched | None = None
        self._model_problem: ModelProblem | None = None
        self._target = Target()
        self._refused: str | None = None
        self._monitors: tuple[ShardMonitor, ...] = ()
        self._leases = Leases(clock())
        self._apis = Apis()
        self._configured: float | None = None
        self._changes = Changes()
        self._configurations = 0
        self._observed: tuple[_Basis, Situation] | None = None
        self._acted_on: _Basis | None = None

    def configure(self, config: object) -> None:
        """Take a new target (``DirectoryConfig`` as JSON data). Never raises: what is refused is reported.

        The first one may have been told long before this process began, of a checkpoint that was there then: one of
        as many experts is served by the same placement, until another one is told.
        """
        try:
            target = read_target(config, self._target)
            if self._model is not None:
                target.check_shape(self._model.facts)
                if self._configured is not None:
                    target.check_digest(self._model.facts)
        except ConfigRefusedError as error:
            logger.error("user_config of the directory is refused, the old target stays: %s", error)
            self._refused = str(error)
            return
        tell_unknown("the directory", DirectoryConfig, config)
        self._refused = None
        self._configurations += 1
        self._configured = self._configured or self._clock()
        known = dict(zip(self._target.shards, self._monitors, strict=True))
        self._monitors = tuple(known.get(ref) or self._watch(ref) for ref in target.shards)
        self._target = target
        self._candidate.look_at(target.candidate)
        if self._model is not None:
            self._model.publication.resize(len(self._monitors))
        self._changes.note()
        reached(FaultPoint.DIRECTORY_ACCEPTED)

    async def run(self) -> None:
        """Inspect the model, then watch the shards and turn until cancelled; look at the candidate meanwhile."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._candidate.run())
            tasks.create_task(self._keep_legacy())
            tasks.create_task(self._follow_fetch())
            await self._keep_inspecting()
            await self._keep_turning(tasks)

    async def _keep_inspecting(self) -> None:
        while True:
            if self._model is not None or await self.inspect_model():
                return
            await asyncio.sleep(INSPECT_AGAIN_SECONDS)

    async def _follow_fetch(self) -> None:
        """Note how much of a model has been fetched. In a thread: the cache may be on a file system that stands still,
        and reports must not."""
        while self._model is None:
            try:
                self._fetched = await asyncio.to_thread(report_fetched, self._args.path)
            except OSError as error:
                logger.warning("how much of the model has been fetched is not known: %s", error)
            await asyncio.sleep(FETCHED_SECONDS)

    async def _keep_turning(self, tasks: asyncio.TaskGroup) -> None:
        watching: dict[ShardMonitor, asyncio.Task[None]] = {}
        while True:
            for monitor in watching.keys() - set(self._monitors):
                watching.pop(monitor).cancel()
            for monitor in self._monitors:
                if monitor not in watching and self._model is not None:
                    watching[monitor] = tasks.create_task(monitor.watch(self._model.facts.digest))
            seen = self._changes.count
            await self.turn()
            await asyncio.sleep(TURN_SECONDS)
            await self._changes.beyond(seen, self._time_to_next_look())

    async def _keep_legacy(self) -> None:
        while True:
            await asyncio.sleep(LEGACY_SECONDS)
            if self._model is None:
                continue
            try:
                await self._model.statistics.inherit()
            except Exception as error:  # statistics must not end the directory, which all answers depend on
                logger.error("what replicas that are gone have left is not inherited", exc_info=error)

    async def inspect_model(self) -> bool:
        """Look at the model; whether it can be served."""
        try:
            facts = await asyncio.to_thread(self._inspect, self._args)
        except Exception as error:  # noqa: BLE001 - see problem_of
            self._model_problem = problem_of(self._args, error)
            return False
        try:
            self._target.check_shape(facts)
        except ConfigRefusedError as error:
            self._refused = str(error)
            self._target = self._target.without_placement()
        self._model = _Model(facts, len(self._monitors))
        self._model_problem = None
        self._changes.note()
        return True

    async def turn(self) -> None:
        """Take the next step towards the target, if anything has changed since the last one that it depends on."""
        model = self._model
        if model is None or not (model.publication.published or self._has_heard_enough()):
            return
        basis = self._basis(model)
        if basis == self._acted_on:
            return
        self._acted_on = basis
        now = self._observe(model)
        actions = next_actions(now)
        addresses = (monitor.address for monitor in self._monitors)
        asked = [address for address in addresses if address and actions.table[:, :, address.index].any()]
        target = self._target
        if model.publication.publish(actions.table, asked, target.term, target.revision):
            logger.info("epoch %d is in force", model.publication.epoch)
            reached(FaultPoint.DIRECTORY_PUBLISHED)
        if target.placement is not None and not await self._give_orders(actions):
            self._acted_on = None
        # Tables and orders are part of what the next actions follow from.
        self._changes.note()

    async def _give_orders(self, actions: Actions) -> bool:
        """Give orders to the shards to which they are news; returns whether all of them took theirs."""
        free, held = actions.free, actions.kept
        sites = [monitor.site for monitor in self._monitors]
        load = hold_back(actions.load, held, sites)
        live = [monitor for monitor in self._monitors if monitor.index in load]
        news = [
            m
            for m in live
            if m.is_news(load[m.index], free[m.index]) or are_outdated(m.index, load[m.index], m.told, held, sites)
        ]
        orders = order_loads({m.index: load[m.index] for m in news}, held, sites)
        return all(await asyncio.gather(*(m.assign(orders[m.index], free[m.index], held) for m in news)))

    async def sync(self, request: SyncRequest) -> SyncReply:
        """An attention replica reports; see ``messages``. What it says counts from now on; the answer may be held."""
        counted = self._take(request)
        end = self._clock() + request.hold
        known = self._model is not None
        while (left := end - self._clock()) > 0 and known == (self._model is not None):
            if self._model is not None and self._model.table_for(request) is not None:
                break
            await self._changes.beyond(self._changes.count, left)
        if (model := self._model) is None:
            return SyncReply(None, counted=counted)
        statistics = model.statistics.known(request.replica, request.status.digest, request.legacy_version)
        return SyncReply(model.table_for(request), model.facts.digest, counted, statistics)

    def _take(self, request: SyncRequest) -> bool:
        """Take what the request tells; returns whether its windows were counted: before the model is known there is
        nothing to count them in."""
        model, epoch, now = self._model, -1, self._clock()
        if model is not None:
            epoch = model.publication.acknowledged_by(request.version)
            model.traffic.add(request.replica, request.sequence, request.windows, now)
        behind = self._leases.reached(now)
        if self._leases.renew(request.replica, epoch, request.status, now):
            self._changes.note()
            if self._leases.reached(now) > behind:
                reached(FaultPoint.DIRECTORY_ACKNOWLEDGED)
        return model is not None

    def exchange(self, sync: ApiSync) -> ApiReply:
        """An api process tells of itself, and hears the report; see ``apis``."""
        now = self._clock()
        self._apis.take(sync, now)
        return self._apis.reply(sync, self.report(), now)

    def take_statistics(self, report: StatisticsReport) -> StatisticsHeard:
        """An attention replica hands over what it gathered; before the model is known nothing is taken."""
        return self._model.statistics.take(report) if self._model is not None else StatisticsHeard()

    async def adopt_statistics(self, packed: bytes, source: str = "") -> str | None:
        """Take over what the directory of a former cluster, ``source``, gathered; why not, if it is not taken."""
        if self._model is None:
            return "the model is not known here yet"
        return await self._model.statistics.adopt(packed, source)

    async def statistics(self) -> bytes | None:
        """All that attention replicas gathered, as ``encode_statistics`` packs it; None before they did."""
        return await self._model.statistics.merged() if self._model is not None else None

    def report(self) -> DirectoryReport:
        """What the operator polls."""
        target, model = self._target, self._model
        refused, apis = self._refused or self._apis.refused(self._clock()), self._apis.told_of(self._clock())
        attention = report_attention(self._leases.live(self._clock()), model.facts if model else None)
        if model is None:
            return DirectoryReport(
                term=target.term,
                revision=target.revision,
                refused=refused,
                epoch=0,
                model_problem=self._model_problem,
                candidate=self._candidate.report,
                shards=tuple(report_shard(monitor, None, wanted=0, pairs=0) for monitor in self._monitors),
                attention=attention,
                progress=Progress(copied=0, total=0, settled=False),
                contract=CONTRACT,
                fetched=self._fetched,
                apis=apis,
            )
        now = self._observe(model)
        wanted, pairs = now.target.sum(axis=(0, 1)), model.traffic.pairs_of_shard
        in_use = self._leases.reached(self._clock()) >= model.publication.epoch
        return DirectoryReport(
            term=target.term,
            revision=target.revision,
            refused=refused,
            epoch=model.publication.epoch,
            model=model.facts,
            candidate=self._candidate.report,
            shards=tuple(report_shard(m, model.facts, int(wanted[m.index]), pairs[m.index]) for m in self._monitors),
            attention=attention,
            progress=report_progress(now, in_use and target.placement is not None),
            placement=model.encoded_table(),
            traffic=model.traffic.report(model.publication.origin),
            contract=CONTRACT,
            fetched=self._fetched_by_others(),
            apis=apis,
        )

    def _fetched_by_others(self) -> Fetched | None:
        """How much shards and attention replicas wait for, once the model is known."""
        shards = [monitor.description for monitor in self._monitors if monitor.phase != "Lost"]
        leases = [lease.status for lease in self._leases.live(self._clock()).values()]
        return sum_fetched((each.node, each.fetched) for each in (*shards, *leases) if each is not None)

    def _cached(self, candidate: ModelArgs) -> Cached:
        """Files of ``candidate`` that are there for its processes, whoever keeps it: a shard says whether all of what
        it serves now are on its node."""
        if self._target.caches_go:
            return Cached.NOWHERE
        is_same, sites = candidate.path == self._args.path, [monitor.site for monitor in self._monitors]
        is_there = is_same and bool(sites) and all(site.near_checkpoint for site in sites)
        return Cached.EVERYWHERE if is_there else Cached.HERE

    def _has_heard_enough(self) -> bool:
        """Whether a first table would say what is there, as far as anybody can tell."""
        if self._configured is None:
            return False
        answered = all(monitor.description is not None for monitor in self._monitors)
        return answered or self._clock() - self._configured >= HEARING_SECONDS

    def _watch(self, ref: ShardRef) -> ShardMonitor:
        return ShardMonitor(ref.index, self._connect(ref), self._clock, self._changes.note)

    def _time_to_next_look(self) -> float | None:
        """Seconds until actions may be due because of time alone; None where it never is."""
        now = self._clock()
        due = [self._leases.next_end(now), *(monitor.next_phase for monitor in self._monitors)]
        if self._model is not None and not self._model.publication.published and self._configured is not None:
            due.append(self._configured + HEARING_SECONDS)
        return min((max(0.0, end - now) for end in due if end is not None), default=None)

    def _basis(self, model: _Model) -> _Basis:
        shards = tuple((monitor.revision, monitor.phase) for monitor in self._monitors)
        acknowledged = self._leases.acknowledged(self._clock())
        return (self._configurations, shards, acknowledged, model.publication.epoch)

    def _observe(self, model: _Model) -> Situation:
        """The situation, made anew only when it is another one, since reports ask for it much more often."""
        basis = self._basis(model)
        if self._observed is None or self._observed[0] != basis:
            self._observed = (basis, self._look(model))
        return self._observed[1]

    def _look(self, model: _Model) -> Situation:
        facts, monitors, publication = model.facts, self._monitors, model.publication
        live = np.array([monitor.phase == "Ready" for monitor in monitors], dtype=bool)
        known = np.zeros((facts.layers, facts.experts, len(monitors)), dtype=bool)
        for monitor in monitors:
            known[:, :, monitor.index] = monitor.held(facts)
        held = known & live
        placement = self._target.placement
        return Situation(
            target=held if placement is None else placement.held,
            held=held,
            silent=known & ~live,
            published=publication.copies,
            released=publication.released(self._leases.acknowledged(self._clock())),
            live=live,
            capacity=np.array([monitor.capacity for monitor in monitors], dtype=np.int64),
            min_copies=self._target.min_copies,
            pairs=model.traffic.load.copy(),
            loading={monitor.index: monitor.loading for monitor in monitors if monitor.problem(facts) is None},
        )


class _Model:
    """What the directory has once the model is known."""

    def __init__(self, facts: ModelFacts, shards: int) -> None:
        self.facts = facts
        self.publication = Publication(facts.layers, facts.experts, shards)
        self.traffic = TrafficCounts(facts.layers, facts.experts)
        self.statistics = StatisticsStore(facts)
        self._encoded: tuple[int, str | None] = (0, None)

    def table_for(self, request: SyncRequest) -> RoutingTable | None:
        """The table in force, None where the replica has it already."""
        table = self.publication.table
        return table if self.publication.published and request.version != table.version else None

    def encoded_table(self) -> str | None:
        """The table in force as a placement; encoded once per epoch, since it is polled much more often."""
        epoch = self.publication.epoch
        if self._encoded[0] != epoch:
            placement = as_placement(self.publication.copies)
            self._encoded = (epoch, encode_placement(placement) if placement else None)
        return self._encoded[1]
