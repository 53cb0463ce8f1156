"""Who is reconciled when: workers that take keys, and a resync that knows which keys there are.

Events only enqueue. The resync lists all objects anew, since nobody tells of what happened in a gap of a watch: it
enqueues what there is, and what was known and is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from moe_operator.api import MoEDeploymentStatus
from moe_operator.backends.errors import StalePlanError
from moe_operator.errors import LeadershipLostError, OperatorError
from moe_operator.kube.api import KubeApi
from moe_operator.kube.errors import ConflictError, KubeError
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.reconcile.backoff import Backoff
from moe_operator.reconcile.queue import WorkQueue
from moe_operator.reconcile.reconciler import Reconciler, Result
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.logs import log_key
from moe_operator.telemetry.metrics import Metrics, ReconcileResult

PASS_SECONDS = 90.0
"""Bound on one reconcile: the first PUT to a Ray cluster starts Serve and may take a minute."""
WORKER_LIMIT_SECONDS = 120.0
BEAT_SECONDS = 20.0
METRICS_SECONDS = 2.0
CONFLICT_SECONDS = 0.1
SLOW_SECONDS = 2.0
"""A pass that took so long and led nowhere waited for a Ray, or a name, that does not answer."""
SLOW_CAP_SECONDS = 60.0
"""The longest delay after such a pass; it keeps a worker for 6 s. What fails at once is tried again sooner."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Controller:
    """Works all MoEDeployments of ``namespaces`` (none: of all). ``run`` ends only by an error or a cancellation."""

    reconciler: Reconciler
    api: KubeApi
    liveness: Liveness
    metrics: Metrics
    workers: int
    resync_seconds: float
    namespaces: Collection[str] = ()
    queue: WorkQueue = field(init=False)
    backoff: Backoff = field(default_factory=Backoff)
    statuses: dict[str, MoEDeploymentStatus] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Half of the workers are never kept waiting by keys that are known to."""
        self.queue = WorkQueue(slow_at_a_time=max(1, self.workers // 2))

    async def run(self) -> None:
        """Work until cancelled.

        Raises:
            ExceptionGroup: with a LeadershipLostError when this process may no longer write.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._resync(), name="resync")
                tasks.create_task(self._publish(), name="metrics")
                for number in range(self.workers):
                    tasks.create_task(self._work(f"worker-{number}"), name=f"worker-{number}")
        finally:
            self.queue.close()

    def enqueue(self, key: str) -> None:
        """Something happened to ``key``."""
        self._known.add(key)
        self.queue.add(key)

    async def _work(self, name: str) -> None:
        self.liveness.expect(name, WORKER_LIMIT_SECONDS)
        while True:
            key = await self._take(name)
            self.liveness.beat(name, key)
            try:
                with log_key(key):
                    await self._attempt(key)
            finally:
                self.queue.done(key)

    async def _take(self, name: str) -> str:
        while True:
            self.liveness.beat(name)
            try:
                async with asyncio.timeout(BEAT_SECONDS):
                    return await self.queue.take()
            except TimeoutError:
                continue

    async def _attempt(self, key: str) -> None:
        """One pass; whatever it ends with decides when the key comes again."""
        started = time.monotonic()
        try:
            with self.metrics.reconcile_timed():
                async with asyncio.timeout(PASS_SECONDS):
                    result = await self.reconciler.reconcile(key)
        except (ConflictError, StalePlanError) as error:
            logger.debug("%s; once more", error)
            self.metrics.reconcile_ended(ReconcileResult.CONFLICT)
            self.queue.add_after(key, CONFLICT_SECONDS)
        except LeadershipLostError:
            raise
        except OperatorError as error:
            logger.warning("%s", error)
            self._retry(key, ReconcileResult.ERROR)
        except TimeoutError:
            logger.warning("reconcile did not end within %.0f s", PASS_SECONDS)
            self._retry(key, ReconcileResult.ERROR)
        except Exception:  # a defect shown by one object must not stop the work on all others
            logger.exception("reconcile failed")
            self._retry(key, ReconcileResult.ERROR)
        else:
            self._schedule(key, result, time.monotonic() - started)

    def _schedule(self, key: str, result: Result, seconds: float) -> None:
        if result.status is None:
            self._forget(key)
            self.metrics.reconcile_ended(ReconcileResult.DONE)
            return
        self.statuses[key] = result.status
        slow = result.again is None and seconds >= SLOW_SECONDS
        self.queue.mark(key, slow)
        if result.again is None:
            self._retry(key, ReconcileResult.WAITING, SLOW_CAP_SECONDS if slow else None)
            return
        self.backoff.forget(key)
        self.queue.add_after(key, result.again)
        self.metrics.reconcile_ended(ReconcileResult.WAITING if result.moving else ReconcileResult.DONE)

    def _retry(self, key: str, ended: ReconcileResult, cap: float | None = None) -> None:
        self.queue.add_after(key, self.backoff.next_delay(key, cap))
        self.metrics.reconcile_ended(ended)

    def _forget(self, key: str) -> None:
        self._known.discard(key)
        self.statuses.pop(key, None)
        self.backoff.forget(key)
        self.queue.drop(key)

    async def _resync(self) -> None:
        limit = 2.5 * self.resync_seconds + 60.0
        self.liveness.expect("resync", limit)
        delays = Backoff(first=1.0, cap=30.0)
        while True:
            self.liveness.beat("resync", "listing")
            try:
                present = await self._list()
            except KubeError as error:
                logger.warning("resync: %s", error)
                delay = delays.next_delay("list")
            else:
                delays.forget("list")
                for key in present | self._known:
                    self.enqueue(key)
                delay = self.resync_seconds * (1.0 + 0.2 * random.random())
            self.liveness.beat("resync")
            await asyncio.sleep(delay)

    async def _list(self) -> set[str]:
        scopes: Iterable[str | None] = self.namespaces or (None,)
        found = [item for scope in scopes for item in await self.api.list(MOE_DEPLOYMENTS, scope)]
        return {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in found}

    async def _publish(self) -> None:
        """Gauges, apart from the passes: setting them takes time with the number of objects."""
        while True:
            self.metrics.queue_depth(len(self.queue))
            self.metrics.conditions(self.statuses)
            await asyncio.sleep(METRICS_SECONDS)
