"""The pass over one MoEDeployment. Called by ``controller`` for each key that is due."""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, replace

from moe_operator.api import ConditionType, DeletionPolicy, Identity, MoEDeployment, MoEDeploymentStatus, Reason
from moe_operator.backends.errors import RayError
from moe_operator.backends.serve_rest.cluster import Outcome
from moe_operator.backends.serve_rest.merge import Change
from moe_operator.errors import InvalidObjectError
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import NotFoundError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.objects import set_cleanup_finalizer, write_status
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.reconcile.cleanup import Cleanup
from moe_operator.reconcile.conditions import History, deleting_status, invalid_status
from moe_operator.reconcile.diagnosis import diagnose
from moe_operator.reconcile.memory import Memories, Memory
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.plan import Plan, Step, next_plan, serve_http_options
from moe_operator.reconcile.status import next_status
from moe_operator.reconcile.transitions import transitions
from moe_operator.reconcile.world import Finding, World

SETTLED_SECONDS = 5.0
"""Between two looks at a deployment that is where it should be."""
MOVING_SECONDS = 0.5
"""Between two looks at one that is on its way."""
SPREAD = 0.2
"""By which part the delays differ, so that deployments made together do not stay in step."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Result:
    """How a pass ended.

    Attributes:
        status: what is told of the object; None when it is gone.
        again: seconds after which to look again; None where something outside does not answer and the delay must grow.
        moving: whether it is on its way somewhere.
    """

    status: MoEDeploymentStatus | None = None
    again: float | None = None
    moving: bool = False


@dataclass(frozen=True, slots=True)
class Reconciler:
    """Its parts; it keeps no state but ``memories``."""

    api: KubeApi
    observer: Observer
    events: EventRecorder
    cleanup: Cleanup
    memories: Memories = field(default_factory=Memories)

    async def reconcile(self, key: str) -> Result:
        """Bring one MoEDeployment a step nearer to its spec and tell how it is.

        Raises:
            KubeError: the API server refused or did not answer; ``ConflictError`` if somebody else wrote in between.
            StalePlanError: Serve runs something else than was planned from.
            LeadershipLostError: this process may no longer write.
        """
        live = await self._read(key)
        if live is None:
            self.memories.forget(key)
            return Result()
        memory = self.memories.of(key, live["metadata"]["uid"])
        try:
            return await self._work(MoEDeployment.parse(live), live, memory)
        except InvalidObjectError as error:
            return await self._work_unreadable(Identity.model_validate(live), live, memory, str(error))

    async def _work(self, moe: MoEDeployment, live: Json, memory: Memory) -> Result:
        if moe.deleting:
            return await self._delete(moe, live, memory)
        world = await self.observer.observe(moe, memory)
        # Placing a large model takes seconds: in a thread, since probes and the Lease must not wait for it.
        plan = await asyncio.to_thread(next_plan, world)
        live = await self._set_finalizer(world, plan, live)
        outcome, refusal = await self._apply(world, plan, memory)
        world = replace(world, lost=memory.lost(self.observer.clock()))
        problem = refusal or diagnose(world, plan, outcome.conflict)
        status = next_status(world, plan, problem)
        await self._tell(moe, moe.status, live, status)
        return _result(world, status, refused=bool(refusal))

    async def _read(self, key: str) -> Json | None:
        namespace, _, name = key.partition("/")
        try:
            return await self.api.get(MOE_DEPLOYMENTS, namespace, name)
        except NotFoundError:
            return None

    async def _set_finalizer(self, world: World, plan: Plan, live: Json) -> Json:
        """Before anything is made that outlives the object; and gone when nothing of the kind is left."""
        if world.moe.spec.deletion_policy == DeletionPolicy.ORPHAN:
            return await set_cleanup_finalizer(self.api, live, present=False)
        if plan.applications:
            return await set_cleanup_finalizer(self.api, live, present=True)
        if plan.step is Step.SLEEP and world.nothing_is_left:
            return await set_cleanup_finalizer(self.api, live, present=False)
        return live

    async def _apply(self, world: World, plan: Plan, memory: Memory) -> tuple[Outcome, Finding | None]:
        """Have the applications run; returns what became of it, and why it was refused if it was."""
        if plan.applications is None:
            return Outcome(), None
        change = Change(world.core_name, plan.applications, serve_http_options(world.moe))
        try:
            outcome = await self.observer.cluster(world.moe).apply(memory.token, change, world.serve)
        except RayError as error:
            return Outcome(), Finding(error.reason, str(error))
        memory.note_lost(outcome.lost, self.observer.clock())
        if outcome.conflict and outcome.conflict != memory.conflict:
            logger.warning("not written, since Serve application %r is in the way", outcome.conflict.owner)
        memory.conflict = outcome.conflict
        if outcome.written:
            logger.info("Serve at %s was told to run %s", world.moe.ray_cluster.dashboard_url, _names(change))
        return outcome, None

    async def _tell(
        self, about: Identity, before: MoEDeploymentStatus, live: Json, status: MoEDeploymentStatus
    ) -> None:
        """Write the status where it differs, and an Event for each transition in it."""
        if await write_status(self.api, live, status) is live:
            return
        for note in transitions(before, status):
            logger.log(logging.WARNING if note.type == "Warning" else logging.INFO, "%s: %s", note.reason, note.note)
            await self.events.record(about, note)

    async def _work_unreadable(self, about: Identity, live: Json, memory: Memory, why: str) -> Result:
        """The little that can be done with an object that these types cannot read: say so, and let it be deleted."""
        history = History(MoEDeploymentStatus.of(live), about.metadata.generation, self.observer.now())
        status = invalid_status(history, why)
        if about.deleting:
            waiting = await self.cleanup.advance_unreadable(about, live, memory, why)
            if waiting is None:
                return Result()
            status = deleting_status(history, waiting)
        await self._tell(about, history.before, live, status)
        return Result(status)

    async def _delete(self, moe: MoEDeployment, live: Json, memory: Memory) -> Result:
        waiting = await self.cleanup.advance(moe, live, memory)
        if waiting is None:
            return Result()
        history = History(moe.status, moe.metadata.generation, self.observer.now())
        status = deleting_status(history, waiting)
        await self._tell(moe, moe.status, live, status)
        return Result(status, again=MOVING_SECONDS if waiting.reason == Reason.DELETING else None, moving=True)


def _result(world: World, status: MoEDeploymentStatus, refused: bool) -> Result:
    if refused or world.runtime_problem:
        return Result(status)
    progressing = status.condition(ConditionType.PROGRESSING)
    moving = progressing is not None and progressing.status == "True"
    delay = MOVING_SECONDS if moving else SETTLED_SECONDS
    return Result(status, delay * (1.0 + SPREAD * (2.0 * random.random() - 1.0)), moving)


def _names(change: Change) -> str:
    return ", ".join(sorted(change.names)) or f"nothing of {change.core}"
