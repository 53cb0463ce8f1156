"""kopf as the watcher: every event of the operator's kinds is handed to the controller with the object, no more.

kopf runs in a thread with an event loop of its own: it takes the signals of the loop it runs in, and when it ends it
cancels every task there, whoever made it.

That its task runs is no proof that events arrive. So each stream lasts less than a minute, and each time the API server
begins a new one that is a sign of life; a watch that waits on a dead connection, is refused, watches a kind that is not
there any more or has silently ended gives none.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp
import kopf

from moe_operator.api.names import GROUP
from moe_operator.errors import OperatorError
from moe_operator.kube.api import Json
from moe_operator.kube.connection import Connection
from moe_operator.kube.credentials import RETRY_SECONDS, Access
from moe_operator.kube.resources import MOE_DEPLOYMENTS, Resource
from moe_operator.process.inbox import Inbox
from moe_operator.telemetry.liveness import Liveness

STOP_SECONDS = 10.0
STREAM_SECONDS = 40
"""The API server ends each stream after so long, and the watch goes on with another from where it was."""
DEAD_STREAM_SECONDS = 45.0
"""A stream without a word, also without its end, is given up."""
LIMIT_SECONDS = 52.0
"""Between two streams of the same namespace."""

_IDENTITY: Any = "moe-operator"
"""Told to nobody. kopf would begin it with the user's name, and in a pod a user has none."""

GONE = "the kind {} is not installed any more: kubectl apply -f crds/"

Deliver = Callable[[str | None, Json], None]
"""Is called with type and object of an event."""

logger = logging.getLogger(__name__)

# They say that kopf cannot take signals, which is what the thread is for, and trace what ends it, which is told here.
for _name in ("kopf._core.reactor.running", "kopf._core.reactor.orchestration"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@dataclass(frozen=True, slots=True)
class Watch:
    """What to watch, and who is told.

    Attributes:
        namespaces: empty for all.
        deliver: for each kind, called in the loop that runs ``run``; of several events of one object that come faster
            than the loop takes them, with the last.
    """

    connection: Connection
    namespaces: Collection[str]
    deliver: Mapping[Resource, Deliver]
    liveness: Liveness

    async def run(self) -> None:
        """Watch until cancelled.

        Raises:
            OperatorError: the watch broke down, as when the kind is deleted.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        kopf_thread = _KopfThread(self, loop, ended)
        for sign in self.signs().values():
            self.liveness.expect(sign, LIMIT_SECONDS)
        # A daemon: a watch that does not stop in time must not hold up the end of the process.
        threading.Thread(target=kopf_thread.run, name="watch", daemon=True).start()
        try:
            await asyncio.shield(ended)
        finally:
            kopf_thread.stop.set()
            await asyncio.wait([ended], timeout=STOP_SECONDS)

    def signs(self) -> dict[str, str]:
        """Names of the signs of life by path of what is watched; the probe tells them to anyone, so no namespaces."""
        found: dict[str, str] = {}
        for resource in self.deliver:
            name = "watch" if resource == MOE_DEPLOYMENTS else f"watch-of-{resource.plural}"
            if self.namespaces:
                found |= {resource.path(each): f"{name}-{number}" for number, each in enumerate(self.namespaces)}
            else:
                found[resource.path(None)] = name
        return found


class _KopfThread:
    """What happens in the thread; ``stop`` ends it."""

    def __init__(self, watch: Watch, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        self.stop = threading.Event()
        self._watch = watch
        self._loop = loop
        self._ended = ended
        self._inboxes = {resource: Inbox(loop, deliver) for resource, deliver in watch.deliver.items()}
        self._signs = watch.signs()
        self._access: Access | None = None

    def run(self) -> None:
        try:
            asyncio.run(self._run_kopf())
        except BaseException as broken:  # noqa: BLE001 # handed to the loop that waits for it
            self._end(broken)
        else:
            self._end(None)

    async def _run_kopf(self) -> None:
        asyncio.get_running_loop().set_exception_handler(_unhandled)
        registry = kopf.OperatorRegistry()
        kopf.on.login(registry=registry)(self._login)
        for resource, inbox in self._inboxes.items():
            changed = _handler(inbox, resource)
            kopf.on.event(resource.group, resource.version, resource.plural, registry=registry)(changed)
        namespaces = list(self._watch.namespaces)
        try:
            await kopf.operator(
                registry=registry,
                settings=_settings(),
                standalone=True,
                identity=_IDENTITY,
                clusterwide=not namespaces,
                namespaces=namespaces,
                stop_flag=self.stop,
            )
        except BaseException as broken:
            self._end(broken)  # at once: the end of the loop may take its time
            raise
        finally:
            # kopf waits for the flag in a thread, which the end of the loop would wait for in turn.
            self.stop.set()

    def _end(self, error: BaseException | None) -> None:
        try:
            self._loop.call_soon_threadsafe(_set_end, self._ended, self._told(error))
        except RuntimeError:
            logger.debug("the watch ended after the loop that wanted it")

    def _told(self, error: BaseException | None) -> OperatorError | None:
        if error is None:
            return None
        kinds = " or ".join(resource.kind for resource in self._inboxes)
        if getattr(error, "status", None) == 404:
            return OperatorError(GONE.format(kinds))
        return OperatorError(f"the watch of {GROUP} broke down: {error!r}")

    async def _login(self, **_: Any) -> kopf.AiohttpSession:
        """A session with the credentials that all of the process use; called again when they are refused."""
        refused = self._access
        asked = self._watch.connection.endpoint(refused)
        endpoint = await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, self._loop))
        if endpoint.access is refused:
            await asyncio.sleep(RETRY_SECONDS)  # nothing newer yet: kopf would ask again at once
        self._access = endpoint.access
        trace = aiohttp.TraceConfig()
        trace.on_request_end.append(self._answered)
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=endpoint.ssl),
            headers=endpoint.headers,
            proxy=endpoint.proxy,
            trust_env=True,
            trace_configs=[trace],
        )
        return kopf.AiohttpSession(server=endpoint.server, aiohttp_session=session)

    async def _answered(self, _: aiohttp.ClientSession, __: Any, end: aiohttp.TraceRequestEndParams) -> None:
        """The API server has begun to answer: a stream that was accepted is a sign of life."""
        if end.response.status == 200 and "watch" in end.url.query:
            for path, sign in self._signs.items():
                if end.url.path.endswith(path):  # the server's address may have a path of its own
                    self._watch.liveness.beat(sign, "streaming")


def _unhandled(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """What goes wrong in a callback, as where kopf takes back a request when it ends: it asks for the task that it is
    in, and is in none. In one line, since nobody waits for it."""
    logger.warning("in the loop of the watch: %s: %r", context["message"], context.get("exception"))


def _handler(inbox: Inbox, resource: Resource) -> Callable[..., Awaitable[None]]:
    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        inbox.put(event["type"], dict(event["object"]))

    changed.__name__ = f"changed_{resource.plural}"  # kopf tells handlers apart by it
    return changed


def _set_end(ended: asyncio.Future[None], error: OperatorError | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.queueing.worker_limit = None  # one that is set can starve objects (nolar/kopf#1243)
    # Watches of their own accord stop seeing events, and nobody notices (nolar/kopf#204, #585, #698, #847).
    settings.watching.server_timeout = STREAM_SECONDS
    settings.watching.client_timeout = DEAD_STREAM_SECONDS
    settings.watching.inactivity_timeout = DEAD_STREAM_SECONDS
    settings.watching.connect_timeout = 5
    settings.watching.chunk_size = 100  # an ExpertPlacement may be large
    # 17 s in all: after that another attempt begins anew, or the watch breaks down and says why.
    settings.networking.error_backoffs = (1, 1, 2, 3, 5, 5)
    settings.networking.request_timeout = 20
    # It would kill the process, by a signal that cannot be told from a crash.
    settings.process.ultimate_exiting_timeout = None
    # Nothing is stored by kopf; should that ever change, not under the name of a foreign company.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings
