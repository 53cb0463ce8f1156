"""What a pass does for ``spec.experts.autoscaling``: measures, has the brain plan for another number of shards where
one is wanted, and writes it. ``autoscale`` decides.

What is remembered between passes may be lost: another process waits for whole windows before it acts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from moe_contract.report import ShardReport
from moe_operator.api import AutoscaleReason, MoEDeployment
from moe_operator.api.autoscaling import Autoscaling as Policy
from moe_operator.api.names import AUTOSCALER_FIELD_MANAGER
from moe_operator.api.status import AutoscalingStatus
from moe_operator.autoscale.bounds import Bounds, bounds
from moe_operator.autoscale.decision import (
    Wish,
    by_figures,
    candidates,
    chosen,
    not_by_shards,
    out_of_bounds,
    targets_of,
)
from moe_operator.autoscale.decisions import is_news, with_decision
from moe_operator.autoscale.need import need
from moe_operator.autoscale.ownership import is_ours
from moe_operator.autoscale.standing import conflict, standstill
from moe_operator.autoscale.steadying import Steadying
from moe_operator.autoscale.usage import Reading, Usage, usage
from moe_operator.kube.api import KubeApi
from moe_operator.kube.errors import ConflictError, KubeError, NotFoundError
from moe_operator.kube.events import EventNote, EventRecorder, EventType
from moe_operator.kube.objects import version_as_judged
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.offload.errors import OffloadError
from moe_operator.recent import Recent
from moe_operator.reconcile.decider import Decider
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.placing import wanted_shards
from moe_operator.reconcile.world import World
from moe_operator.telemetry.metrics import Metrics

REFUSED_SECONDS = 60.0
"""How long no number is asked for after a plan, or the API server, refused one, or none could be planned."""
MISSING_SECONDS = 300.0
"""How long shards of the highest numbers that hold nothing are waited for, before shards are taken away without
them."""
STALE_SECONDS = 60.0
"""After so long a reading gives way to the present one, though they cannot be compared since a shard is another
process."""
STEP = 5
"""Percent by which utilisation has moved when it is told anew."""
logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Deployment:
    """Attributes:
    missing_since: since when shards of the highest numbers, and nothing else, are missing; monotonic seconds.
    quiet_until: until when nothing is asked for, since something was refused; monotonic seconds.
    unwritten: what the API server refused, to be told.
    """

    uid: str
    steadying: Steadying
    reading: Reading | None = None
    missing_since: float | None = None
    quiet_until: float = float("-inf")
    unwritten: Wish | None = None

    def begin_anew(self) -> None:
        self.steadying.clear()
        self.reading = self.missing_since = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of a pass: what is told of it, and what is to be written once that is told."""

    status: AutoscalingStatus | None = None
    wish: Wish | None = None


@dataclass(frozen=True, slots=True)
class Autoscaling:
    """Measures, asks and writes; ``clock``: monotonic seconds."""

    api: KubeApi
    events: EventRecorder
    metrics: Metrics
    decider: Decider
    clock: Callable[[], float] = time.monotonic
    _deployments: Recent[str, _Deployment] = field(default_factory=Recent)

    async def turn(self, world: World, intent: Intent, owner: str) -> Turn:
        """One pass, before its status is told. ``owner``: plans of one owner take turns with those of others."""
        moe = world.moe
        policy = moe.spec.experts.autoscaling
        if policy is None:
            self._deployments.pop(moe.key)
            return Turn()
        told = _found(moe)
        known = self._of(moe, policy)
        if standstill(moe, world.facts, world.now):
            known.begin_anew()
            nothing = {"min_shards": None, "max_shards": None, "schedule": None, "utilization": None}
            return Turn(told.model_copy(update=nothing))
        limits = bounds(policy, world.now, world.facts.experts if world.facts else None)
        used = self._measured(world, intent, known)
        wish, known.unwritten = known.unwritten or self._wish(world, policy, limits, used, known), None
        if wish and wish.after != wish.before:
            wish = await self._planned(wish, world, intent, policy, owner, known)
        if wish and not is_news(wish, told):
            wish = None
        figures = {
            "min_shards": limits.least,
            "max_shards": limits.most,
            "schedule": limits.schedule,
            "utilization": _steadied(told.utilization, used),
            "decisions": with_decision(told, wish, world.now),
        }
        return Turn(told.model_copy(update=figures), wish)

    async def carry_out(self, world: World, wish: Wish | None) -> None:
        """Write the number, once its reason is told; by ``/scale``, and only where the object is as it was judged:
        whoever scales in between has the last word.

        Raises:
            ConflictError: somebody wrote in between.
        """
        if wish is None:
            return
        moe = world.moe
        kind: EventType = "Warning" if wish.reason is AutoscaleReason.WRITE_REFUSED else "Normal"
        if wish.after != wish.before:
            version = await version_as_judged(self.api, moe)
            if version is None or not await self._write(moe, version, wish):
                return
        self.metrics.autoscaled(wish.before, wish.after, wish.reason)
        note = EventNote(kind, wish.reason, f"{wish.before} → {wish.after} shards: {wish.message}", action="Scale")
        await self.events.record(moe, note)

    async def _write(self, moe: MoEDeployment, version: str, wish: Wish) -> bool:
        known, about = self._deployments.get(moe.key), moe.metadata
        where = (MOE_DEPLOYMENTS, about.namespace, about.name)
        try:
            await self.api.scale(*where, wish.after, version, AUTOSCALER_FIELD_MANAGER)
        except (ConflictError, NotFoundError):
            raise
        except KubeError as error:
            logger.warning("%s is not scaled: %s", moe.key, error)
            if known:
                known.quiet_until = self.clock() + REFUSED_SECONDS
                said = f"{wish.message}; the API server refused {wish.after}: {error}"
                known.unwritten = Wish(wish.before, wish.before, AutoscaleReason.WRITE_REFUSED, said, wish.used)
            return False
        if known:
            known.begin_anew()
        return True

    def _of(self, moe: MoEDeployment, policy: Policy) -> _Deployment:
        up, down = policy.waits_up.total_seconds(), policy.waits_down.total_seconds()
        known = self._deployments.get(moe.key)
        if known is None or known.uid != moe.metadata.uid:
            known = _Deployment(moe.metadata.uid, Steadying(up, down))
            self._deployments.put(moe.key, known)
        if (known.steadying.up, known.steadying.down) != (up, down):
            known.steadying = Steadying(up, down)
        return known

    def _measured(self, world: World, intent: Intent, known: _Deployment) -> Usage | None:
        """How busy shards were since the last look that was long enough ago; None where that is not known."""
        report, in_vain = world.report, self._waits_in_vain(world, intent, known)
        if report is None or not (in_vain or _is_whole(world, intent)):
            known.reading = None
            return None
        reading = Reading.of(report, self.clock())
        if known.reading is None or len(reading.shards) != len(known.reading.shards):
            known.steadying.clear()
            known.reading = reading
            return None
        used = usage(known.reading, reading)
        if used is not None or reading.at - known.reading.at > STALE_SECONDS:
            known.reading = reading
        return used

    def _waits_in_vain(self, world: World, intent: Intent, known: _Deployment) -> bool:
        """Whether shards that never came are missed for so long that those which are there decide alone whether they
        suffice."""
        if not _lacks_the_last(world, intent):
            known.missing_since = None
            return False
        if known.missing_since is None:
            known.missing_since = self.clock()
        return self.clock() - known.missing_since >= MISSING_SECONDS

    def _wish(
        self, world: World, policy: Policy, limits: Bounds, used: Usage | None, known: _Deployment
    ) -> Wish | None:
        shards, running = world.moe.spec.experts.shards, wanted_shards(world)
        wish = out_of_bounds(shards, running, limits)
        if wish:
            return wish
        if used is None:
            return None
        wanted = need(used, targets_of(policy))
        # Those that are drained do none of the work, and are among those that run.
        known.steadying.note(self.clock(), limits.clamped(wanted.shards + _drained(world)))
        settled = known.steadying.settled(running)
        if settled < min(shards, running) or (settled > running and known.missing_since is None):
            return by_figures(shards, settled, wanted.reason, used, policy)
        return not_by_shards(shards, used, policy) if wanted.reason is None else None

    async def _planned(
        self, wish: Wish, world: World, intent: Intent, policy: Policy, owner: str, known: _Deployment
    ) -> Wish | None:
        """The wish as far as the brain's plans bear it; None where it is not the time to ask for one."""
        if self.clock() < known.quiet_until or world.runtime.upgrading:
            return None
        if world.facts is None:
            # Nothing runs yet that could be too much, nor is there anything to take away from.
            return wish if wish.is_more else None
        if wish.used and not wish.is_more and known.missing_since is None and not _is_settled(world, intent):
            return None
        total, target = wish.used.total if wish.used else None, targets_of(policy).utilization
        try:
            plans = await self.decider.foresee(world, owner, candidates(wish), total, wish.most_busy(target))
        except OffloadError as error:
            logger.info("%s is not scaled now: %s", world.moe.key, error)
            known.quiet_until = self.clock() + REFUSED_SECONDS
            return None
        decided = chosen(wish, plans, target)
        if decided.after == decided.before:
            known.quiet_until = self.clock() + REFUSED_SECONDS
            known.steadying.clear()
        return decided


def _found(moe: MoEDeployment) -> AutoscalingStatus:
    """The status as it was told, with the number of shards that there is, unless somebody else writes that."""
    shards, owners = moe.spec.experts.shards, moe.metadata.managed_fields
    before = moe.status.autoscaling or AutoscalingStatus(shards=shards)
    if shards == 0:  # whoever wakes it says where the policy begins
        return before.model_copy(update={"shards": 0, "wrote": False})
    if conflict(moe):
        return before
    return before.model_copy(update={"shards": shards, "wrote": before.wrote or is_ours(owners)})


def _is_whole(world: World, intent: Intent) -> bool:
    """Whether all shards that shall run answer and hold their experts. Only then do as many as figures are reckoned
    with share the work: while copies travel, whoever has them still does all of it."""
    return _is_as_asked(world, intent) and all(_is_there(shard) for shard in _shards(world))


def _lacks_the_last(world: World, intent: Intent) -> bool:
    """Whether shards of the highest numbers hold nothing yet, and all others are there."""
    shards = sorted(_shards(world), key=lambda shard: shard.index)
    empty = [shard for shard in shards if shard.wanted and not shard.held]
    there = shards[: len(shards) - len(empty)]
    return _is_as_asked(world, intent) and bool(there and empty) and all(map(_is_there, there))


def _is_as_asked(world: World, intent: Intent) -> bool:
    """Whether the directory knows of as many shards as shall run, and nothing is about to change them."""
    runs = intent.step is Step.RUN and intent.problem is None and intent.change is None
    return runs and len(_shards(world)) == wanted_shards(world)


def _shards(world: World) -> tuple[ShardReport, ...]:
    return world.report.shards if world.report else ()


def _is_there(shard: ShardReport) -> bool:
    return shard.phase == "Ready" and shard.held >= shard.wanted


def _drained(world: World) -> int:
    return sum(not shard.wanted for shard in _shards(world))


def _is_settled(world: World, intent: Intent) -> bool:
    """Whether nothing is on its way: what leaves must not be counted on."""
    return _is_whole(world, intent) and world.settled and intent.target.revision == world.target.revision


def _steadied(before: int | None, used: Usage | None) -> int | None:
    """Utilisation as it is told: in steps, since it moves all the time, and each status is a write."""
    if used is None:
        return before
    now = round(100 * used.busiest)
    return before if before is not None and abs(before - now) < STEP else STEP * round(now / STEP)
