"""One operator process from start to end.

It serves /healthz and /metrics at once, waits until the kind is installed and it is the leader, then watches and
reconciles until a signal, a breakdown, or the loss of the Lease. It gives the Lease back if it can. Where that is lost,
the process is gone at once, whatever its tasks and threads do. What stops living ends it too (``supervisor``), and what
the event loop cannot end any more is ended by a thread (``watchdog``).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from moe_operator.errors import LeadershipLostError, OperatorError
from moe_operator.kube.child_watch import ChildWatch
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import KubeError, NotFoundError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.resources import EXPERT_PLACEMENTS, MOE_DEPLOYMENTS, Resource
from moe_operator.kube.secrets import Secrets
from moe_operator.kube.store import ObjectStore
from moe_operator.kube.stored import StoredKube
from moe_operator.leader import Elector, LeaseSettings
from moe_operator.offload.process import PLANNING_CHILD, PLANNING_MEMORY_BYTES, WorkerProcess
from moe_operator.placements.keeper import PlacementKeeper
from moe_operator.placements.store import PlacementStore
from moe_operator.process.exits import ExitCode, leave_at_once
from moe_operator.process.memory import give_back_large_blocks
from moe_operator.process.options import Options
from moe_operator.process.supervisor import NoAccessError, supervise
from moe_operator.process.watch import Watch
from moe_operator.process.watchdog import Watchdog
from moe_operator.rebalance.looks import Looks
from moe_operator.reconcile.autoscaling import Autoscaling
from moe_operator.reconcile.cleanup import Cleanup
from moe_operator.reconcile.controller import Controller
from moe_operator.reconcile.decider import Decider
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.rebalancing import Rebalancing
from moe_operator.reconcile.reconciler import Reconciler
from moe_operator.reconcile.sleep import Sleep
from moe_operator.runtimes.directory import Directories
from moe_operator.runtimes.either import EitherRuntime
from moe_operator.runtimes.http.client import HttpClient
from moe_operator.runtimes.kube_ray.activators import Activators
from moe_operator.runtimes.kube_ray.objects import KubeRayObjects
from moe_operator.runtimes.kube_ray.runtime import KubeRays
from moe_operator.runtimes.ray_cluster.runtime import RayClusters
from moe_operator.runtimes.ray_cluster.serve_rest.cluster import ServeClusters
from moe_operator.tasks import stray_cancellations
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics
from moe_operator.telemetry.server import telemetry_server

WAIT_SECONDS = 2.0
LEASE_LIMIT_SECONDS = 45.0
"""Between two attempts at the Lease, also of a standby; each takes up to 5 s."""

CHILD_LIMIT_SECONDS = 100.0
"""Between two streams of a kind of children, of which one may be silent, and then take its time to be given up."""

_LEASE = "lease"
_ACTIVATORS = "watch-of-the-activator"

logger = logging.getLogger(__name__)


async def run(options: Options) -> ExitCode:
    """Run until a signal or a failure, which has been logged when this returns; does not return from a lost Lease."""
    give_back_large_blocks()
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    watchdog, liveness, metrics = Watchdog(), Liveness(), Metrics()
    watchdog.start()
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(await KubeClient.connect(options.kubeconfig))
            telemetry = telemetry_server(options.bind, metrics.exposition, {"/healthz": liveness.problem})
            port = await stack.enter_async_context(telemetry)
        except (OperatorError, OSError) as error:
            logger.error("%s", error)
            return ExitCode.NO_ACCESS
        logger.info("/healthz and /metrics on %s port %d", options.bind[0], port)
        process = _Process(options, client, stopped, watchdog, liveness, metrics)
        if options.activator:
            process = replace(process, activators=Activators(options.activator))
        elector = process.elector()
        try:
            return await process.work(elector)
        finally:
            metrics.leading(False)
            await elector.release()


@dataclass(frozen=True, slots=True)
class _Process:
    """What all phases of a process share."""

    options: Options
    client: KubeClient
    stopped: asyncio.Event
    watchdog: Watchdog
    liveness: Liveness
    metrics: Metrics
    store: ObjectStore = field(default_factory=ObjectStore)
    placements: PlacementStore = field(default_factory=PlacementStore)
    children: KubeRayObjects = field(default_factory=KubeRayObjects)
    activators: Activators | None = None

    def elector(self) -> Elector:
        """Of this process; each attempt at the Lease is a sign of life, of a standby too."""
        settings = LeaseSettings(self.options.lease_namespace, self.options.lease_name, self.options.identity)
        self.liveness.expect(_LEASE, LEASE_LIMIT_SECONDS)
        return Elector(self.client, settings, alive=lambda: self.liveness.beat(_LEASE))

    async def work(self, elector: Elector) -> ExitCode:
        """Wait to become the leader, lead, and say why that ended."""
        supervision = asyncio.create_task(_for_ever(self._supervise(elector)), name="supervision")
        others = [supervision, asyncio.create_task(self.stopped.wait(), name="signal")]
        try:
            for step in (self._until_installed, elector.acquire):
                waiting = asyncio.create_task(_not_cancelled(step()), name="start")
                ended = await self._first_of([waiting, *others])
                if ended is not waiting or ended.exception():
                    await _cancel([waiting])
                    return self._exit_code(ended)
            self.metrics.leading(True)
            self.watchdog.guard_lease(elector.overstayed)
            return await self._lead(elector, others)
        finally:
            await _cancel(others)

    async def _lead(self, elector: Elector, others: list[asyncio.Task[Any]]) -> ExitCode:
        async with (
            WorkerProcess() as worker,
            WorkerProcess(PLANNING_MEMORY_BYTES, PLANNING_CHILD) as planner,
            HttpClient(self.options.addresses, worker) as http,
        ):
            controller = self._controller(http, worker, planner, elector)
            deliver = {MOE_DEPLOYMENTS: controller.deliver, EXPERT_PLACEMENTS: controller.deliver_placement}
            watch = Watch(self.client.connection, self.options.namespaces, deliver, self.liveness)
            kinds = [*self.children.kinds.values()]
            if self.options.namespaces:
                self.children.nodes.failed("the operator is installed for single namespaces", absent=False)
            else:
                kinds.append(self.children.nodes)
            for kind in kinds:
                self.liveness.expect(_child(kind.resource.plural), CHILD_LIMIT_SECONDS)
            child_watch = ChildWatch(
                self.client, self.options.namespaces, kinds, controller.enqueue, self._child_is_watched
            )
            works = {
                "lease": elector.hold(),
                "controller": controller.run(),
                "watch": watch.run(),
                "watch of children": child_watch.run(),
                "worker process": worker.lasts(),
                "planning process": planner.lasts(),
            }
            if self.activators:
                works["watch of the activator"] = self._watch_of_activators(self.activators).run()
            tasks = [asyncio.create_task(_for_ever(work), name=name) for name, work in works.items()]
            try:
                ended = await self._first_of([*tasks, *others])
                return self._exit_code(ended)
            finally:
                await _cancel(tasks)

    def _controller(
        self, http: HttpClient, worker: WorkerProcess, planner: WorkerProcess, elector: Elector
    ) -> Controller:
        api = StoredKube(self.client.fenced(elector.check), self.store, self.children.stores)
        clusters = ServeClusters(http, elector.check, self.metrics.serve_written)
        secrets = Secrets(api)
        directories = Directories(http)
        runtimes = EitherRuntime(
            RayClusters(secrets, directories, clusters),
            KubeRays(api, secrets, directories, self.children, self.options.whereabouts, self.activators),
        )
        observer = Observer(secrets, runtimes)
        events = EventRecorder(api, self.options.identity)
        cleanup = Cleanup(api, observer, events, self.metrics, self.options.cleanup_deadline)
        placements = PlacementKeeper(
            api, events, self.placements, secrets.internal_key, rolled_back=self.metrics.rolled_back
        )
        looks = Looks(planner)
        rebalancing = Rebalancing(placements, events, looks, self.metrics)
        decider = Decider(worker)
        autoscaling = Autoscaling(api, events, self.metrics, decider)
        controller = Controller(
            reconciler=Reconciler(
                api, observer, events, cleanup, placements, rebalancing, autoscaling, Sleep(api, events), decider
            ),
            api=api,
            store=self.store,
            liveness=self.liveness,
            metrics=self.metrics,
            workers=self.options.workers,
            resync_seconds=self.options.resync_seconds,
            namespaces=self.options.namespaces,
            on_lost=self._leave,
            placements=self.placements,
        )
        looks.finished = controller.enqueue
        return controller

    def _watch_of_activators(self, activators: Activators) -> ChildWatch:
        """Their addresses are read in each pass: nothing has to be told of a change."""
        self.liveness.expect(_ACTIVATORS, CHILD_LIMIT_SECONDS)
        namespaces, kinds = (activators.service.namespace,), (activators.kind,)
        alive = lambda _: self.liveness.beat(_ACTIVATORS)  # noqa: E731
        return ChildWatch(self.client, namespaces, kinds, lambda _: None, alive)

    def _child_is_watched(self, plural: str) -> None:
        self.liveness.beat(_child(plural))

    async def _supervise(self, elector: Elector) -> None:
        refused = self.client.connection.refused_seconds
        lives, forbidden = self.watchdog.loop_lives, elector.forbidden_seconds
        await supervise(self.liveness, lives, refused, forbidden, self.unseen)

    def unseen(self, seconds: float) -> str | None:
        """Key of an object, of either kind, that its watch has not delivered for so long."""
        return self.store.unseen(seconds) or self.placements.objects.unseen(seconds)

    async def _until_installed(self) -> None:
        """Wait for an API server that answers, knows the kinds and lets the operator list them."""
        said = ""
        while True:
            self.liveness.beat(_LEASE)
            missing = await self._not_installed(MOE_DEPLOYMENTS) or await self._not_installed(EXPERT_PLACEMENTS)
            if not missing:
                return
            if missing != said:
                logger.warning("%s", missing)
                said = missing
            await asyncio.sleep(WAIT_SECONDS)

    async def _not_installed(self, resource: Resource) -> str | None:
        """Why a kind cannot be listed, if it cannot."""
        try:
            await self.client.try_list(resource, next(iter(self.options.namespaces), None))
        except NotFoundError:
            return f"the kind {resource.kind} is not installed: kubectl apply -f crds/; waiting for it"
        except KubeError as error:
            return f"waiting for the API server: {error}"
        return None

    async def _first_of(self, tasks: list[asyncio.Task[Any]]) -> asyncio.Task[Any]:
        """The one that ends first; a lost Lease before all others."""
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            lost = _cause(task)
            if isinstance(lost, LeadershipLostError):
                self._leave(lost)
        return next(task for task in tasks if task in ended)

    def _exit_code(self, ended: asyncio.Task[Any]) -> ExitCode:
        """Log why the process ends, which it must within a bound from now on."""
        self.watchdog.ending()
        error = _cause(ended)
        if isinstance(error, NoAccessError):
            logger.error("%s", error)
            return ExitCode.NO_ACCESS
        if isinstance(error, OperatorError):
            logger.error("%s: %s", ended.get_name(), error)
            return ExitCode.FAILED
        if error is not None:
            logger.error("%s: stopped by a failure", ended.get_name(), exc_info=error)
            return ExitCode.FAILED
        logger.info("stopped")
        return ExitCode.OK

    def _leave(self, lost: LeadershipLostError) -> None:
        """Another process may lead at any moment: nothing of this one may go on, nor is there a Lease to give back."""
        logger.error("%s", lost)
        leave_at_once(ExitCode.LEADERSHIP_LOST)


def _child(plural: str) -> str:
    return f"watch-of-{plural}"


async def _for_ever(work: Coroutine[Any, Any, Any]) -> None:
    """What should never end; how it does is told, also where nobody asked for its cancellation."""
    await _not_cancelled(work)
    raise OperatorError("what should run for ever has ended")


async def _not_cancelled(work: Coroutine[Any, Any, Any]) -> None:
    with stray_cancellations():
        await work


async def _cancel(tasks: list[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _cause(task: asyncio.Task[Any]) -> BaseException | None:
    """Why it failed: the first error inside groups; None if it did not."""
    error = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
