"""Who is reconciled when: workers that take keys, and a resync that knows which keys there are.

Events go into the store and enqueue. The resync lists all objects anew, since nobody tells of what happened in a gap of
a watch: it takes the listing over, and enqueues what there is, and what was known and is gone.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from moe_operator.api import MoEDeploymentStatus
from moe_operator.errors import LeadershipLostError, OperatorError, StaleBasisError
from moe_operator.kube.api import Json, KubeApi, Listing
from moe_operator.kube.errors import ConflictError, KubeError
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS, Resource
from moe_operator.kube.store import ObjectStore, key_of
from moe_operator.placements.store import PlacementStore, deployment_of
from moe_operator.reconcile.backoff import Backoff
from moe_operator.reconcile.queue import WorkQueue
from moe_operator.reconcile.reconciler import Reconciler, Result
from moe_operator.tasks import StrayCancellationError, stray_cancellations
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.logs import log_key
from moe_operator.telemetry.metrics import Metrics, ReconcileResult
from moe_operator.tenant import on_behalf_of

PASS_SECONDS = 48.0
"""Bound on one reconcile, also of one that has Serve started by its first write (``ray_cluster.serve_rest.client``)."""
LIMIT_SECONDS = 52.0
"""Between two signs of life of each worker and loop: what is blocked is seen within a minute."""
BEAT_SECONDS = 15.0
UNSEEN_SECONDS = 10.0
"""What is known, but was not delivered by the watch for so long, has all listed anew: it may be gone without a word."""
LIST_SECONDS = 45.0
"""Bound on one listing of all objects, in pages that take up to 5 s each."""
METRICS_SECONDS = 2.0
CONFLICT_SECONDS = 0.1
CONFLICT_CAP_SECONDS = 5.0
"""The longest delay after passes that somebody else's write overtook; it grows while that goes on."""
SLOW_SECONDS = 2.0
"""A pass that took so long and failed, or led nowhere, waited for a Ray or a name that does not answer, or for others
of its namespace."""
SLOW_CAP_SECONDS = 60.0
"""The longest delay after such a pass; it keeps a worker for 6 to 34 s. What fails at once is tried again sooner."""

DELETED = "DELETED"
"""The type of the event of a deletion; all others, and none, tell of an object that is there."""

logger = logging.getLogger(__name__)


class HistoryLostError(OperatorError):
    """The API server's storage was put back, so that nothing known of it can be compared any more."""


@dataclass(slots=True)
class Controller:
    """Works all MoEDeployments of ``namespaces`` (none: of all). ``run`` ends only by an error or a cancellation.

    Attributes:
        store: what the passes of ``reconciler`` read; ``placements`` likewise.
        on_lost: called at once where a pass finds that this process may no longer write.
    """

    reconciler: Reconciler
    api: KubeApi
    store: ObjectStore
    liveness: Liveness
    metrics: Metrics
    workers: int
    resync_seconds: float
    namespaces: Collection[str] = ()
    on_lost: Callable[[LeadershipLostError], None] = lambda lost: None
    placements: PlacementStore = field(default_factory=PlacementStore)
    queue: WorkQueue = field(init=False)
    backoff: Backoff = field(default_factory=Backoff)
    statuses: dict[str, MoEDeploymentStatus] = field(default_factory=dict)
    _conflicts: Backoff = field(init=False)
    _known: set[str] = field(default_factory=set)
    _listed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Keys that are known to keep workers waiting have at most half of these, and those of one namespace at most
        three quarters."""
        self.queue = WorkQueue(slow_at_a_time=max(1, self.workers // 2), workers=self.workers)
        self._conflicts = Backoff(first=CONFLICT_SECONDS, cap=CONFLICT_CAP_SECONDS)

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

    def deliver_placement(self, kind: str | None, live: Json) -> None:
        """The watch tells of an ExpertPlacement."""
        news = self.placements.remove(live) if kind == DELETED else self.placements.put(live, watched=True)
        if news:
            self.enqueue(deployment_of(live))

    def enqueue(self, key: str) -> None:
        """Something happened to ``key``."""
        self._known.add(key)
        self.queue.add(key)

    async def _work(self, name: str) -> None:
        self.liveness.expect(name, LIMIT_SECONDS)
        while True:
            self.liveness.beat(name)
            key = await self._take()
            if key is None:
                continue
            self.liveness.beat(name, key)
            try:
                with log_key(key), on_behalf_of(key.partition("/")[0]):
                    await self._attempt(key)
            finally:
                self.queue.done(key)

    async def _take(self) -> str | None:
        """The next key; None if there is none for a while, and before the first listing: a pass that does not know the
        placements would decide anew what was decided."""
        try:
            with stray_cancellations():
                async with asyncio.timeout(BEAT_SECONDS):
                    await self._listed.wait()
                    return await self.queue.take()
        except TimeoutError:
            return None
        except StrayCancellationError:
            logger.exception("a worker was cancelled by nobody while it waited for a key")
            return None

    async def _attempt(self, key: str) -> None:
        """One pass, and when the key comes again, which depends on how the pass ended."""
        started = time.monotonic()
        try:
            with self.metrics.reconcile_timed(), stray_cancellations():
                async with asyncio.timeout(PASS_SECONDS):
                    result = await self.reconciler.reconcile(key)
        except (ConflictError, StaleBasisError) as error:
            logger.debug("%s; once more", error)
            self._retry(key, ReconcileResult.CONFLICT, _is_slow(started), self._conflicts)
        except LeadershipLostError as lost:
            self.on_lost(lost)
            raise
        except StrayCancellationError:
            logger.exception("reconcile was cancelled by nobody")
            self._retry(key, ReconcileResult.ERROR, _is_slow(started))
        except OperatorError as error:
            logger.warning("%s", error)
            self._retry(key, ReconcileResult.ERROR, _is_slow(started))
        except TimeoutError as error:
            logger.warning("%s", str(error) or f"a pass did not end within {PASS_SECONDS:.0f} s")
            self._retry(key, ReconcileResult.ERROR, _is_slow(started))
        except Exception:  # a defect shown by one object must not stop the work on all others
            logger.exception("reconcile failed")
            self._retry(key, ReconcileResult.ERROR, _is_slow(started))
        else:
            self._schedule(key, result, _is_slow(started))

    def _schedule(self, key: str, result: Result, took_long: bool) -> None:
        self._conflicts.forget(key)
        slow = took_long and (result.again is None or result.left_behind)
        if result.status is None:
            self._forget(key)
            if result.again is not None:  # the object is gone, and not all that it left
                self.queue.mark(key, slow)
                self.queue.add_after(key, result.again)
            self.metrics.reconcile_ended(ReconcileResult.DONE)
            return
        self.statuses[key] = result.status
        self.queue.mark(key, slow)
        if result.again is None:
            self._retry(key, ReconcileResult.WAITING, slow)
            return
        self.backoff.forget(key)
        self.queue.add_after(key, result.again)
        self.metrics.reconcile_ended(ReconcileResult.WAITING if result.moving else ReconcileResult.DONE)

    def _retry(self, key: str, ended: ReconcileResult, slow: bool, backoff: Backoff | None = None) -> None:
        """Have a key worked again after a pass that led nowhere, later each time. ``slow``: whether it kept a worker
        for it."""
        self.queue.mark(key, slow)
        self.queue.add_after(key, (backoff or self.backoff).next_delay(key, SLOW_CAP_SECONDS if slow else None))
        self.metrics.reconcile_ended(ended)

    def _forget(self, key: str) -> None:
        self._known.discard(key)
        self.statuses.pop(key, None)
        self.backoff.forget(key)
        self.queue.drop(key)

    async def _resync(self) -> None:
        self.liveness.expect("resync", LIMIT_SECONDS)
        delays = Backoff(first=1.0, cap=30.0)
        while True:
            self.liveness.beat("resync", "listing")
            try:
                with stray_cancellations():
                    async with asyncio.timeout(LIST_SECONDS):
                        await self._list()
            except (KubeError, TimeoutError, StrayCancellationError) as error:
                logger.warning("resync: %s", str(error) or f"no listing within {LIST_SECONDS:.0f} s")
                delay = delays.next_delay("list")
            else:
                delays.forget("list")
                self._listed.set()
                # Those that have placements and no object included: these are told so.
                for key in self.store.keys() | self._known | self.placements.deployments():
                    self.enqueue(key)
                delay = self.resync_seconds * (1.0 + 0.2 * random.random())
            await self._rest("resync", delay, self._lacks_something)

    def _lacks_something(self) -> bool:
        """Whether the watch has not delivered what is known otherwise."""
        stores = self.store, self.placements.objects
        return any(store.unseen(UNSEEN_SECONDS) is not None for store in stores)

    async def _list(self) -> None:
        scopes: Iterable[str | None] = self.namespaces or (None,)
        for scope in scopes:
            self.store.replace_all(await self._listing(MOE_DEPLOYMENTS, scope), scope)
            self.placements.replace_all(await self._listing(EXPERT_PLACEMENTS, scope), scope)

    async def _listing(self, resource: Resource, scope: str | None) -> Listing:
        """All objects of a kind. Versions of both kinds are compared, since the API server counts them together."""
        seen = max(self.store.newest, self.placements.objects.newest)
        listing = await self.api.list(resource, scope)
        if listing.version.isdecimal() and int(listing.version) < seen:
            raise HistoryLostError(
                f"the API server is at version {listing.version} and was at {seen} before: it was put back to an "
                "earlier state, of which all must be read anew"
            )
        return listing

    async def _publish(self) -> None:
        """Set gauges, apart from the passes: that takes time which grows with the number of objects."""
        self.liveness.expect("metrics", LIMIT_SECONDS)
        while True:
            self.metrics.queue_depth(len(self.queue))
            self.metrics.workers_busy(self.queue.busy())
            self.metrics.conditions(self.statuses)
            if self._listed.is_set():
                self.metrics.orphaned(self.reconciler.orphaned(self.store.keys(), self.namespaces))
            await self._rest("metrics", METRICS_SECONDS)

    async def _rest(self, name: str, seconds: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Sleep for ``seconds``, or until it is ``enough``, and give signs of life meanwhile."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.liveness.beat(name)
            try:
                with stray_cancellations():
                    await asyncio.sleep(min(left, BEAT_SECONDS))
            except StrayCancellationError:
                logger.exception("%s was cancelled by nobody", name)
            if enough():
                break
        self.liveness.beat(name)


def _is_slow(started: float) -> bool:
    return time.monotonic() - started >= SLOW_SECONDS
