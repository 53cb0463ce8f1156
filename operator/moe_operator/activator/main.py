"""The command ``moe-activator``: one process from start to end."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from moe_operator.activator.announcement import announced
from moe_operator.activator.forwarding import Forwarder
from moe_operator.activator.metrics import Metrics
from moe_operator.activator.roster import Roster
from moe_operator.activator.server import held_requests
from moe_operator.activator.service import HOLD_SECONDS, Service
from moe_operator.activator.waking import Waker
from moe_operator.api.names import FIELD_MANAGER, LABEL_SLICE_MANAGED_BY, activation_name
from moe_operator.arguments import host_and_port, kubernetes_namespace
from moe_operator.errors import OperatorError
from moe_operator.kube.child_watch import ChildWatch, WatchedKind, whole
from moe_operator.kube.client import KubeClient
from moe_operator.kube.resources import ENDPOINT_SLICES
from moe_operator.kube.store import ObjectStore
from moe_operator.telemetry.logs import LogFormat, setup_logging
from moe_operator.telemetry.server import Probe, telemetry_server

LED_PAST_SECONDS = 10.0
"""After the signal to end, until no request is led here any more: it is not ready from then on."""
SELECTOR = f"{LABEL_SLICE_MANAGED_BY}={FIELD_MANAGER}"

OK, FAILED, NO_ACCESS = 0, 1, 3
"""What the process ends with, as the operator does (``process.exits``)."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Activator:
    """What is known of the deployments, and whether requests may come."""

    namespaces: tuple[str, ...]
    roster: Roster = field(default_factory=Roster)
    ending: bool = False
    kind: WatchedKind = field(
        default_factory=lambda: WatchedKind(ENDPOINT_SLICES, ObjectStore(keep=whole), selector=SELECTOR)
    )

    def changed(self, key: str) -> None:
        """The EndpointSlice of one deployment has."""
        namespace, _, deployment = key.partition("/")
        live = self.kind.objects.get(f"{namespace}/{activation_name(deployment)}")
        self.roster.tell(key, announced(live) if live else None)

    def unready(self) -> str | None:
        """Why no request is to be led here."""
        if self.ending:
            return "it ends"
        said = (self.kind.missing(scope) for scope in self.namespaces or ("",))
        return next((f"deployments are not known: {why}" for why in said if why), None)


async def run(options: argparse.Namespace) -> int:
    """Until a signal; returns the exit code."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    activator, metrics = Activator(tuple(options.namespace)), Metrics()
    async with AsyncExitStack() as stack:
        try:
            client = await stack.enter_async_context(await KubeClient.connect(options.kubeconfig))
            probes: dict[str, Probe] = {"/healthz": lambda: None, "/ready": activator.unready}
            await stack.enter_async_context(telemetry_server(options.bind, metrics.exposition, probes))
            session = await stack.enter_async_context(_session())
            waker = Waker(client, metrics.woken)
            stack.push_async_callback(waker.close)
            # What is still held at the end needs to know when it can be sent on: the watch ends after it.
            watch = ChildWatch(client, activator.namespaces, (activator.kind,), activator.changed)
            watching = asyncio.create_task(watch.run(), name="watch")
            stack.callback(watching.cancel)
            service = Service(activator.roster, waker, Forwarder(session), metrics)
            port = await stack.enter_async_context(held_requests(options.listen, service.handle, HOLD_SECONDS))
        except (OperatorError, OSError) as error:
            logger.error("%s", error)
            return NO_ACCESS
        logger.info("requests are held on %s port %d", options.listen[0], port)
        signalled = asyncio.create_task(stopped.wait(), name="signal")
        await asyncio.wait([watching, signalled], return_when=asyncio.FIRST_COMPLETED)
        if watching.done():
            logger.error("the watch of deployments has ended", exc_info=watching.exception())
            return FAILED
        activator.ending = True
        await asyncio.sleep(options.led_past)
        logger.info("what is held is answered within %.0f s, then this ends", HOLD_SECONDS)
    return OK


def _session() -> aiohttp.ClientSession:
    """Answers pass as they are; no cookie of one client may reach another; each request has a connection of its own."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(), connector=connector)


def main(given: list[str] | None = None) -> int:
    """Run it; returns the exit code."""
    options = arguments().parse_args(given)
    setup_logging(options.log_format, options.log_level)
    return asyncio.run(run(options))


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="moe-activator", description="Holds the first requests to MoEDeployments that sleep, and has them woken."
    )
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: $KUBECONFIG, else that of the pod")
    parser.add_argument(
        "--namespace", action="append", default=[], type=kubernetes_namespace, metavar="NAME",
        help="of deployments; may be repeated (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--listen", type=host_and_port, default=("127.0.0.1", 8000), metavar="HOST:PORT",
        help="where requests come (default: 127.0.0.1:8000)",
    )  # fmt: skip
    parser.add_argument(
        "--bind", type=host_and_port, default=("127.0.0.1", 8081), metavar="HOST:PORT",
        help="of /healthz, /ready and /metrics (default: 127.0.0.1:8081)",
    )  # fmt: skip
    parser.add_argument(
        "--led-past", type=float, default=LED_PAST_SECONDS, metavar="SECONDS",
        help="after the signal to end, until nothing new comes (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--log-format", type=LogFormat, choices=list(LogFormat), default=LogFormat.HUMAN)
    parser.add_argument("--log-level", choices=["DEBUG", "INFO", "WARNING", "ERROR"], default="INFO")
    return parser


if __name__ == "__main__":
    sys.exit(main())
