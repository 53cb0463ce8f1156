"""Who is reconciled when: workers that take keys, and a resync that knows which keys there are.

Events go into the store and enqueue. The resync lists all objects anew, since nobody tells of what happened in a gap of
a watch: it takes the listing over, and enqueues what there is, and what was known and is gone.
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
from moe_operator.kube.api import Json, KubeApi
from moe_operator.kube.errors import ConflictError, KubeError
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.kube.store import ObjectStore, key_of
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

DELETED = "DELETED"
"""The type of the event of a deletion; all others, and none, tell of an object that is there."""

logger = logging.getLogger(__name__)


class HistoryLostError(OperatorError):
    """The API server's storage was put back, so that nothing known of it can be compared any more."""


@dataclass(slots=True)
class Controller:
    """Works all MoEDeployments of ``namespaces`` (none: of all). ``run`` ends only by an error or a cancellation.

    Attributes:
        store: what the passes of ``reconciler`` read.
    """

    reconciler: Reconciler
    api: KubeApi
    store: ObjectStore
    liveness: Liveness
    metrics: Metrics
    workers: int
    resync_seconds: float
    namespaces: Collection[str] = ()
    queue: WorkQueue = field(init=False)
    backoff: Backoff = field(default_factory=Backoff)
    statuses: dict[str, MoEDeploymentStatus] = field(default_factory=dict)
    _known: set[str] = field(default_factory=set)
    _listed: bool = False

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

    def deliver(self, kind: str | None, live: Json) -> None:
        """The watch tells of an object; ``kind`` is the type of the event."""
        news = self.store.remove(live) if kind == DELETED else self.store.put(live, watched=True)
        if news:
            self.enqueue(key_of(live))

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
            if result.again is not None:  # the object is gone, and not all that it left
                self.queue.add_after(key, result.again)
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
                await self._list()
            except KubeError as error:
                logger.warning("resync: %s", error)
                delay = delays.next_delay("list")
            else:
                delays.forget("list")
                self._listed = True
                for key in self.store.keys() | self._known:
                    self.enqueue(key)
                delay = self.resync_seconds * (1.0 + 0.2 * random.random())
            self.liveness.beat("resync")
            await asyncio.sleep(delay)

    async def _list(self) -> None:
        scopes: Iterable[str | None] = self.namespaces or (None,)
        for scope in scopes:
            seen = self.store.newest
            listing = await self.api.list(MOE_DEPLOYMENTS, scope)
            if listing.version.isdecimal() and int(listing.version) < seen:
                raise HistoryLostError(
                    f"the API server is at version {listing.version} and was at {seen} before: it was put back to an "
                    "earlier state, of which all must be read anew"
                )
            self.store.replace_all(listing, scope)

    async def _publish(self) -> None:
        """Gauges, apart from the passes: setting them takes time with the number of objects."""
        while True:
            self.metrics.queue_depth(len(self.queue))
            self.metrics.conditions(self.statuses)
            if self._listed:
                self.metrics.orphaned(self.reconciler.orphaned(self.store.keys(), self.namespaces))
            await asyncio.sleep(METRICS_SECONDS)
