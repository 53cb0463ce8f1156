"""One operator process from start to end.

It serves /healthz and /metrics at once, waits until the kind is installed and it is the leader, then watches and
reconciles until a signal, the loss of the Lease, or a breakdown; each way it ends, it gives the Lease back if it can.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from enum import IntEnum
from typing import Any

from moe_operator.backends.directory import Directories
from moe_operator.backends.http import HttpClient
from moe_operator.backends.serve_rest.cluster import ServeClusters
from moe_operator.errors import LeadershipLostError, OperatorError
from moe_operator.kube.client import KubeClient
from moe_operator.kube.errors import KubeError, NotFoundError
from moe_operator.kube.events import EventRecorder
from moe_operator.kube.resources import MOE_DEPLOYMENTS
from moe_operator.kube.store import ObjectStore
from moe_operator.kube.stored import StoredKube
from moe_operator.leader import Elector, LeaseSettings
from moe_operator.offload.process import WorkerProcess
from moe_operator.reconcile.cleanup import Cleanup
from moe_operator.reconcile.controller import Controller
from moe_operator.reconcile.observe import Observer
from moe_operator.reconcile.planner import Planner
from moe_operator.reconcile.reconciler import Reconciler
from moe_operator.runtime.options import LEASE_NAME, Options
from moe_operator.runtime.watch import watch
from moe_operator.telemetry.liveness import Liveness
from moe_operator.telemetry.metrics import Metrics
from moe_operator.telemetry.server import telemetry_server

WAIT_SECONDS = 2.0

logger = logging.getLogger(__name__)


class ExitCode(IntEnum):
    """What the process ends with; 2 is the command line's."""

    OK = 0
    """Stopped by a signal."""
    FAILED = 1
    """Something broke down; start it again."""
    NO_ACCESS = 3
    """No access to Kubernetes, or the port is taken: starting again helps only once that is mended."""
    LEADERSHIP_LOST = 4
    """Another process leads, or the Lease could not be renewed; start it again as a standby."""


async def run(options: Options) -> ExitCode:
    """Run until a signal or a failure, which has been logged when this returns."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    liveness, metrics = Liveness(), Metrics()
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(await KubeClient.connect(options.kubeconfig))
            port = await stack.enter_async_context(telemetry_server(*options.bind, metrics, liveness))
        except (OperatorError, OSError) as error:
            logger.error("%s", error)
            return ExitCode.NO_ACCESS
        logger.info("/healthz and /metrics on %s port %d", options.bind[0], port)
        elector = Elector(client, LeaseSettings(options.lease_namespace, LEASE_NAME, options.identity))
        try:
            return await _lead(options, client, elector, stopped, liveness, metrics)
        finally:
            metrics.leading(False)
            await elector.release()


async def _lead(
    options: Options, client: KubeClient, elector: Elector, stopped: asyncio.Event, liveness: Liveness, metrics: Metrics
) -> ExitCode:
    for step in (_until_installed(client, options), elector.acquire()):
        ended = await _first_of(step, stopped.wait())
        if stopped.is_set():
            return ExitCode.OK
        await ended
    metrics.leading(True)
    async with WorkerProcess() as worker, HttpClient(options.addresses, worker) as http:
        controller = _controller(options, client.fenced(elector.check), http, worker, elector, liveness, metrics)
        ended = await _first_of(
            elector.hold(),
            controller.run(),
            watch(client, options.namespaces, controller.deliver),
            stopped.wait(),
        )
        return _exit_code(ended, stopped.is_set())


def _controller(
    options: Options,
    client: KubeClient,
    http: HttpClient,
    worker: WorkerProcess,
    elector: Elector,
    liveness: Liveness,
    metrics: Metrics,
) -> Controller:
    store = ObjectStore()
    api = StoredKube(client, store)
    clusters = ServeClusters(http, elector.check, metrics.serve_written)
    observer = Observer(api, Directories(http), clusters)
    events = EventRecorder(api, options.identity)
    cleanup = Cleanup(api, observer, events, metrics, options.cleanup_deadline)
    return Controller(
        reconciler=Reconciler(api, observer, events, cleanup, Planner(worker)),
        api=api,
        store=store,
        liveness=liveness,
        metrics=metrics,
        workers=options.workers,
        resync_seconds=options.resync_seconds,
        namespaces=options.namespaces,
    )


async def _until_installed(client: KubeClient, options: Options) -> None:
    """Wait for an API server that answers, knows the kind and lets the operator list it."""
    said = ""
    while True:
        try:
            await client.list(MOE_DEPLOYMENTS, next(iter(options.namespaces), None))
            return
        except NotFoundError:
            missing = f"the kind {MOE_DEPLOYMENTS.kind} is not installed: kubectl apply -f crds/; waiting for it"
        except KubeError as error:
            missing = f"waiting for the API server: {error}"
        if missing != said:
            logger.warning("%s", missing)
            said = missing
        await asyncio.sleep(WAIT_SECONDS)


async def _first_of(*works: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Run all until one ends, then cancel the others and wait for them; returns the one that ended."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in ended)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _exit_code(ended: asyncio.Task[Any], stopped: bool) -> ExitCode:
    error = None if ended.cancelled() else _cause(ended.exception())
    if isinstance(error, LeadershipLostError):
        logger.error("%s", error)
        return ExitCode.LEADERSHIP_LOST
    if error is not None:
        logger.error("stopped by a failure", exc_info=error)
        return ExitCode.FAILED
    if stopped:
        logger.info("stopped")
        return ExitCode.OK
    logger.error("stopped: a part that should run for ever has ended")
    return ExitCode.FAILED


def _cause(error: BaseException | None) -> BaseException | None:
    """The first error inside groups."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
