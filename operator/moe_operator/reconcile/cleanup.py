"""Deletion: the Serve applications of a MoEDeployment go before it does, or its deadline passes.

The finalizer is on an object only while there is, or may be, something of it on a Ray cluster that outlives it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from moe_operator.api import DeletionPolicy, MoEDeployment, Reason
from moe_operator.backends.errors import RayError
from moe_operator.backends.serve_rest.merge import Change, owned
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import SecretError
from moe_operator.kube.events import EventNote, EventRecorder
from moe_operator.kube.objects import set_cleanup_finalizer
from moe_operator.reconcile.memory import Memory
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.world import Finding, core_name
from moe_operator.telemetry.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cleanup:
    """``deadline``: seconds after the deletion was asked for, after which it goes on without a cleanup."""

    api: KubeApi
    observer: Observer
    events: EventRecorder
    metrics: Metrics
    deadline: float

    async def advance(self, moe: MoEDeployment, live: Json, memory: Memory) -> Finding | None:
        """One attempt; returns what is being waited for, or None when the object may go, and has been let go."""
        if not moe.has_cleanup_finalizer:
            return None
        if moe.spec.deletion_policy == DeletionPolicy.DELETE:
            waiting = await self._remove_applications(moe, memory)
            if waiting and not self._overdue(moe):
                return waiting
            if waiting:
                await self._abandon(moe, waiting)
        await set_cleanup_finalizer(self.api, live, present=False)
        return None

    async def _remove_applications(self, moe: MoEDeployment, memory: Memory) -> Finding | None:
        try:
            token = await self._token(moe, memory)
            cluster = self.observer.cluster(moe)
            await cluster.apply(token, Change(core_name(moe), ()))
            left = owned(await cluster.observe(token), core_name(moe))
        except (RayError, SecretError) as error:
            return Finding(error.reason, str(error))
        if not left:
            return None
        return Finding(Reason.DELETING, f"Serve is stopping {', '.join(sorted(left))}")

    async def _token(self, moe: MoEDeployment, memory: Memory) -> str | None:
        """The token, or the one that worked last: a namespace that is deleted loses its Secrets first."""
        try:
            return await self.observer.token(moe)
        except SecretError:
            if memory.token is None:
                raise
            return memory.token

    def _overdue(self, moe: MoEDeployment) -> bool:
        asked = moe.metadata.deletion_timestamp
        return asked is not None and (self.observer.now() - asked).total_seconds() > self.deadline

    async def _abandon(self, moe: MoEDeployment, waiting: Finding) -> None:
        note = (
            f"gave up after {self.deadline:.0f} s removing the Serve applications {core_name(moe)}* from "
            f"{moe.ray_cluster.dashboard_url}: {waiting.message}; remove them there, they may still run"
        )
        logger.error("%s", note)
        self.metrics.cleanup_abandoned()
        await self.events.record(moe, EventNote("Warning", Reason.CLEANUP_ABANDONED, note, action="Delete"))
