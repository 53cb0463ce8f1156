"""The pass over one MoEDeployment. Called by ``controller`` for each key that is due."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from moe_operator.api import ConditionType, DeletionPolicy, Identity, MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.errors import InvalidObjectError, LeadershipLostError, OperatorError, StaleBasisError
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.objects import set_cleanup_finalizer, write_status
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.placements.keeper import PlacementKeeper
from moe_operator.reconcile.autoscaling import Autoscaling
from moe_operator.reconcile.cleanup import Cleanup
from moe_operator.reconcile.conditions import deleting_status, failed_status, invalid_status, kept_by_others
from moe_operator.reconcile.decider import Decider
from moe_operator.reconcile.diagnosis import diagnose
from moe_operator.reconcile.failure import failure
from moe_operator.reconcile.history import History
from moe_operator.reconcile.intent import Intent, Step
from moe_operator.reconcile.memory import Memories, Memory
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.progress import next_stage
from moe_operator.reconcile.rebalancing import Rebalancing, seconds_until
from moe_operator.reconcile.scene import scene_of
from moe_operator.reconcile.sleep import Sleep
from moe_operator.reconcile.status import next_status
from moe_operator.reconcile.telling import news
from moe_operator.reconcile.transitions import transitions
from moe_operator.reconcile.world import World
from moe_operator.runtimes.port import Effect, Outcome
from moe_operator.tasks import stray_cancellations

DEPARTED_EVERY_SECONDS = 5.0
"""Between two attempts to clean up after an object that is gone."""
WORK_SECONDS = 34.0
"""Bound on the work of a pass, in which the first PUT to a Ray cluster has Serve started. The controller's bound on the
whole pass leaves time to tell that it was met."""
SETTLED_SECONDS = 5.0
"""Between two looks at a deployment that is where it should be."""
MOVING_SECONDS = 0.5
"""Between two looks at a deployment that is on its way."""
KEPT_SECONDS = 60.0
"""Between two looks at an object that is being deleted and that only others keep; its changes come by the watch."""
SPREAD = 0.2
"""Delays differ by up to this part, so that deployments made together do not stay in step."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a pass ended.

    Attributes:
        status: what is told of the object; None when it is gone.
        again: seconds after which to look again; None where something outside does not answer and the delay must grow.
        moving: whether it is on its way somewhere.
        left_behind: whether former objects of this name left something that is still to be removed.
    """

    status: MoEDeploymentStatus | None = None
    again: float | None = None
    moving: bool = False
    left_behind: bool = False


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Works one object at a time; it keeps no state but ``memories``."""

    api: KubeApi
    observer: Observer
    events: EventRecorder
    cleanup: Cleanup
    placements: PlacementKeeper
    rebalancing: Rebalancing
    autoscaling: Autoscaling
    sleep: Sleep
    decider: Decider = field(default_factory=Decider)
    memories: Memories = field(default_factory=Memories)

    async def reconcile(self, key: str) -> Result:
        """Bring one MoEDeployment a step nearer to its spec and tell how it is.

        Raises:
            KubeError: the API server refused or did not answer; ``ConflictError`` if somebody else wrote in between.
            StaleBasisError: something else runs by now than the intent was made from.
            LeadershipLostError: this process may no longer write.
        """
        live = await self._read(key)
        if live is None:
            self.memories.forget(key)
            await self.placements.tell_missing(key, self.observer.now())
            left = await self._clean_up_departed(key)
            return Result(again=SETTLED_SECONDS if left else None, left_behind=left)
        memory = self.memories.of(key, live["metadata"]["uid"])
        left = await self._clean_up_departed(key)
        try:
            with stray_cancellations():
                async with asyncio.timeout(WORK_SECONDS) as limit:
                    result = await self._pass(live, memory)
        except Exception as error:
            if isinstance(error, TimeoutError) and limit.expired():
                error = TimeoutError(f"the work of a pass did not end within {WORK_SECONDS:.0f} s")
            await self._tell_failure(key, memory, error)
            raise
        memory.pass_failing(False, self.observer.clock())
        return replace(result, left_behind=left)

    async def _pass(self, live: Json, memory: Memory) -> Result:
        try:
            moe = MoEDeployment.parse(live)
            memory.seen = moe if moe.spec.runtime.is_named else memory.seen
            memory.outlives = memory.outlives or moe.has_cleanup_finalizer
            if memory.concluded:
                moe = moe.model_copy(update={"status": memory.concluded})
            return await self._work(moe, live, memory)
        except InvalidObjectError as error:
            return await self._work_unreadable(Identity.model_validate(live), live, memory, str(error))

    async def _work(self, moe: MoEDeployment, live: Json, memory: Memory) -> Result:
        if moe.deleting:
            return await self._delete(moe, live, memory)
        world = await self.observer.observe(moe, memory)
        runtime = self.observer.runtime(moe, memory)
        chooses = world.runtime.is_known and not moe.spec.suspend
        if chooses:
            world = replace(world, book=await self.placements.book(moe, world.target.revision))
        intent = await self.decider.decide(world, runtime.where)
        live = await self._set_finalizer(world, intent, live, memory)
        outcome = Outcome(Effect.EQUAL, None, world.runtime.foreign_writer)
        if intent.step is not Step.NOTHING:
            outcome = await runtime.apply(moe, intent.desired, world.runtime, intent.without)
        if outcome.effect is Effect.STALE:
            raise StaleBasisError(outcome.problem.message if outcome.problem else "something else runs by now")
        world = replace(world, runtime=replace(world.runtime, foreign_writer=outcome.foreign_writer))
        problem = outcome.problem or diagnose(world, intent)
        if problem is None and next_stage(world, intent) is None:
            problem = memory.unkept
        rebalance = await self.rebalancing.turn(world, intent, runtime)
        scaling = await self.autoscaling.turn(world, intent, runtime.where)
        told = {"rebalance": rebalance, "autoscaling": scaling.status}
        status = next_status(world, intent, problem).model_copy(update=told)
        held = await self._tell(moe, memory, live, status)
        if chooses:
            refusal = await self.placements.keep(moe, scene_of(world, intent, status))
            memory.unkept = failure(refusal, 0.0) if refusal else None
        else:
            memory.unkept = None
            await self.placements.tell_unjudged(moe, scene_of(world, intent, status))
        await self.autoscaling.carry_out(world, scaling.wish)
        await self.sleep.turn(world, status)
        return _result(world, status, held, refused=outcome.effect is Effect.REFUSED)

    async def _read(self, key: str) -> Json | None:
        namespace, _, name = key.partition("/")
        try:
            return await self.api.get(MOE_DEPLOYMENTS, namespace, name)
        except NotFoundError:
            return None

    def orphaned(self, known: Collection[str], namespaces: Collection[str] = ()) -> int:
        """How many applications are of objects that are not there. ``known``: keys of all objects in ``namespaces``
        (none: in all)."""

        def uids(key: str) -> Collection[str] | None:
            worked = self.memories.uids(key)
            watched = not namespaces or key.partition("/")[0] in namespaces
            return worked if watched and (worked or key not in known) else None

        return self.observer.runtimes.orphaned(uids)

    async def _clean_up_departed(self, key: str) -> bool:
        """Make one attempt to clean up after an object of this name that is gone, as when its finalizer was replaced
        away; returns whether any such is left. A new object of the same name has other applications, and must not wait
        long."""
        memory = self.memories.due_departed(key, self.observer.clock())
        if memory is not None:
            memory.not_before = self.observer.clock() + DEPARTED_EVERY_SECONDS
            moe = memory.seen
            try:
                if moe is None or (await self._is_gone(moe) and await self.cleanup.advance_departed(moe, memory)):
                    self.memories.cleaned_up(key, memory)
            except OperatorError as error:
                if isinstance(error, LeadershipLostError):
                    raise
                logger.warning("cleaning up after a former %s: %s", key, error)
        return bool(self.memories.departed(key))

    async def _is_gone(self, moe: MoEDeployment) -> bool:
        """Whether the object is gone, asked anew: whatever told so may have been wrong for a moment, and what is
        removed now is lost."""
        namespace = moe.metadata.namespace
        try:
            found = await self.api.get_metadata(MOE_DEPLOYMENTS, namespace, moe.metadata.name)
        except NotFoundError:
            await self.api.list(MOE_DEPLOYMENTS, namespace)  # raises where not the object but the kind is not found
            return True
        return bool(found["uid"] != moe.metadata.uid)

    async def _set_finalizer(self, world: World, intent: Intent, live: Json, memory: Memory) -> Json:
        """Set the finalizer before anything is made that outlives the object, and keep it as long as something may be
        there.

        It may have been taken away in between, as by ``kubectl replace`` of a manifest without it.
        """
        if world.moe.spec.deletion_policy == DeletionPolicy.ORPHAN:
            memory.outlives = False
        elif intent.desired or _may_run(world):
            memory.outlives = True
        elif intent.step is Step.SLEEP and world.runtime.nothing_is_left:
            memory.outlives = False
        else:
            return live
        return await set_cleanup_finalizer(self.api, live, present=memory.outlives)

    async def _tell(self, about: Identity, memory: Memory, live: Json, status: MoEDeploymentStatus) -> float:
        """Write the status where it differs and its time has come, and an Event for each transition in it.

        Returns the seconds for which it is held back.
        """
        memory.concluded = status
        stands = MoEDeploymentStatus.of(live)
        what, now = news(stands, status), self.observer.clock()
        held = memory.telling.wait(what, now)
        if held > 0.0 or await write_status(self.api, live, status) is live:
            return held
        memory.telling.written(what, now)
        before, memory.written = memory.written or stands, status
        for note in transitions(before, status):
            logger.log(logging.WARNING if note.type == "Warning" else logging.INFO, "%s: %s", note.reason, note.note)
            if memory.events.wait(now) == 0.0:
                memory.events.take(now)
                await self.events.record(about, note)
        return 0.0

    async def _tell_failure(self, key: str, memory: Memory, error: Exception) -> None:
        """Tell what is in the way of a pass that failed; where even that fails, the log says both."""
        seconds = memory.pass_failing(True, self.observer.clock())
        why = failure(error, seconds)
        if why is None:
            return
        try:
            live = await self._read(key)  # anew: the pass may have changed the object
            if live is None or live["metadata"]["uid"] != memory.uid:
                return
            about = Identity.model_validate(live)
            history = self._history(about, live, memory)
            status = deleting_status(history, why) if about.deleting else failed_status(history, why, seconds)
            await self._tell(about, memory, live, status)
        except LeadershipLostError:
            raise
        except OperatorError as second:
            logger.warning("%s; of which nothing could be told: %s", why.message, second)

    def _history(self, about: Identity, live: Json, memory: Memory) -> History:
        before = memory.concluded or MoEDeploymentStatus.of(live)
        return History(before, about.metadata.generation, self.observer.now())

    async def _work_unreadable(self, about: Identity, live: Json, memory: Memory, why: str) -> Result:
        """The little that can be done with an object that these types cannot read: say so, and let it be deleted."""
        history = self._history(about, live, memory)
        status = invalid_status(history, why)
        if about.deleting:
            waiting = await self.cleanup.advance_unreadable(about, live, memory, why)
            if waiting is None:
                return await self._kept_by_others(about, memory)
            status = deleting_status(history, waiting)
        await self._tell(about, memory, live, status)
        return Result(status)

    async def _delete(self, moe: MoEDeployment, live: Json, memory: Memory) -> Result:
        waiting = await self.cleanup.advance(moe, live, memory)
        if waiting is None:
            return await self._kept_by_others(moe, memory)
        status = deleting_status(self._history(moe, live, memory), waiting)
        await self._tell(moe, memory, live, status)
        return Result(status, again=MOVING_SECONDS if waiting.reason == Reason.DELETING else None, moving=True)

    async def _kept_by_others(self, about: Identity, memory: Memory) -> Result:
        """Tell that the operator has nothing left to do, where finalizers of others keep the object."""
        if not about.others_finalizers:
            return Result()
        live = await self._read(about.key)  # anew: its own finalizer may have gone in this pass
        if live is None or live["metadata"]["uid"] != memory.uid:
            return Result()
        status = deleting_status(self._history(about, live, memory), kept_by_others(about.others_finalizers))
        held = await self._tell(about, memory, live, status)
        return Result(status, again=held or KEPT_SECONDS)


def _may_run(world: World) -> bool:
    """Whether something of the deployment runs or, where that is not known, its status says so."""
    if world.runtime.is_known:
        return bool(world.runtime.applications)
    return world.moe.status.serves or bool(world.moe.status.shards)


def _result(world: World, status: MoEDeploymentStatus, held: float, refused: bool) -> Result:
    if refused or world.runtime.unreachable:
        return Result(status)
    progressing = status.condition(ConditionType.PROGRESSING)
    moving = progressing is not None and progressing.status == "True"
    look = seconds_until(status.rebalance, world.now)
    delay = MOVING_SECONDS if moving else min(SETTLED_SECONDS, held or SETTLED_SECONDS, look or SETTLED_SECONDS)
    return Result(status, delay * (1.0 + SPREAD * (2.0 * random.random() - 1.0)), moving)
