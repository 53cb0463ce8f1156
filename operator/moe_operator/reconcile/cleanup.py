"""Deletion: the Serve applications of a MoEDeployment go before it does, or its deadline passes.

The finalizer is on an object only while something of it that outlives it runs, or may run.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

from moe_operator.api import DeletionPolicy, Identity, MoEDeployment, Reason
from moe_operator.errors import InvalidObjectError, OperatorError
from moe_operator.finding import Finding
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.events import EventNote, EventRecorder
from moe_operator.kube.objects import set_cleanup_finalizer
from moe_operator.reconcile.failure import failure
from moe_operator.reconcile.memory import Memory
from moe_operator.reconcile.observe import Observer
from moe_operator.runtimes.port import core_name
from moe_operator.telemetry.metrics import Metrics

ATTEMPT_SECONDS = 32.0
"""Bound on one attempt, below that on the pass that it is part of: one that takes longer counts as failed."""
DEPARTED_SECONDS = 8.0
"""Bound on an attempt for an object that is gone: another one of its name may be waiting."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cleanup:
    """``deadline``: seconds of failing after which the deletion goes on without a cleanup.

    Seconds in which no operator ran, or in which what was told to stop was stopping, do not count.
    """

    api: KubeApi
    observer: Observer
    events: EventRecorder
    metrics: Metrics
    deadline: float

    async def advance(self, moe: MoEDeployment, live: Json, memory: Memory) -> Finding | None:
        """One attempt; returns what is waited for, or None once the operator has let go of the object.

        An object without our finalizer, which others keep, is cleaned up as well if something of it may be left.
        """
        if not moe.has_cleanup_finalizer and not memory.outlives:
            return None
        if moe.spec.deletion_policy == DeletionPolicy.DELETE:
            waiting = await self._remove_applications(moe, memory)
            if waiting and not self._overdue(memory, waiting):
                return waiting
            if waiting:
                await self._abandon(moe, self.observer.runtime(moe, memory).where, waiting)
        memory.outlives = False
        await set_cleanup_finalizer(self.api, live, present=False)
        return None

    async def advance_departed(self, moe: MoEDeployment, memory: Memory) -> bool:
        """One attempt for an object that is gone already, its finalizer taken away; returns whether it was the last
        one.

        The deadline counts from the first attempt on, since nobody can be told what is waited for.
        """
        waiting = await self._remove_applications(moe, memory, DEPARTED_SECONDS)
        if waiting is None:
            logger.warning("it went without its finalizer: removed the Serve applications %s*", core_name(moe))
            return True
        if memory.cleanup_failing(True, self.observer.clock()) <= self.deadline:
            return False
        await self._abandon(moe, self.observer.runtime(moe, memory).where, waiting)
        return True

    async def advance_unreadable(self, about: Identity, live: Json, memory: Memory, why: str) -> Finding | None:
        """One attempt for an object that these types cannot read, so that nobody knows where its applications run."""
        if not about.has_cleanup_finalizer:
            return None
        waiting = Finding(Reason.SPEC_INVALID, why)
        if not self._overdue(memory, waiting):
            return waiting
        await self._abandon(about, "its Ray cluster", waiting)
        memory.outlives = False
        await set_cleanup_finalizer(self.api, live, present=False)
        return None

    async def _remove_applications(
        self, moe: MoEDeployment, memory: Memory, seconds: float | None = None
    ) -> Finding | None:
        try:
            async with asyncio.timeout(seconds or ATTEMPT_SECONDS):
                return await self.observer.runtime(moe, memory).remove(moe)
        except InvalidObjectError:
            raise
        except Exception as error:
            # Whatever it is, it must count for the deadline: it would keep the object for ever.
            why = failure(error, memory.cleanup_failing(True, self.observer.clock()))
            if why is None:
                raise
            if not isinstance(error, OperatorError):
                logger.exception("the cleanup failed")
            return why

    def _overdue(self, memory: Memory, waiting: Finding) -> bool:
        failing = memory.cleanup_failing(waiting.reason != Reason.DELETING, self.observer.clock())
        return failing > self.deadline

    async def _abandon(self, about: Identity, where: str, waiting: Finding) -> None:
        note = (
            f"gave up after {self.deadline:.0f} s removing the Serve applications {core_name(about)}* from {where}: "
            f"{waiting.message}; remove them there, they may still run"
        )
        logger.error("%s", note)
        self.metrics.cleanup_abandoned()
        await self.events.record(about, EventNote("Warning", Reason.CLEANUP_ABANDONED, note, action="Delete"))
