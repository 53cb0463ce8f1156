"""kopf as the watcher: every event of a MoEDeployment is handed to the controller with the object, and nothing else.

kopf runs in a thread with an event loop of its own: it takes the signals of the loop it runs in, and when it ends it
cancels every task there, whoever made it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Collection
from typing import Any

import kopf

from moe_operator.api.names import GROUP, PLURAL, VERSION
from moe_operator.errors import OperatorError
from moe_operator.kube.api import Json
from moe_operator.kube.client import KubeClient
from moe_operator.runtime.inbox import Inbox

STOP_SECONDS = 10.0

# It says that it cannot take signals, which is what the thread is for.
logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)


async def watch(client: KubeClient, namespaces: Collection[str], deliver: Callable[[str | None, Json], None]) -> None:
    """Call ``deliver`` in this loop with type and object of each event, until cancelled.

    Of several events of one object that come faster than the loop takes them it gets the last.

    Raises:
        OperatorError: the watch broke down, as when the kind is deleted.
    """
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    stop = threading.Event()

    inbox = Inbox(loop, deliver)

    def run() -> None:
        error: BaseException | None = None
        try:
            asyncio.run(_run_kopf(client, namespaces, inbox, stop))
        except BaseException as broken:  # noqa: BLE001 # handed to the loop that waits for it
            error = broken
        loop.call_soon_threadsafe(_end, ended, error)

    # A daemon: a watch that does not stop in time must not hold up the end of the process.
    threading.Thread(target=run, name="watch", daemon=True).start()
    try:
        await asyncio.shield(ended)
    finally:
        stop.set()
        await asyncio.wait([ended], timeout=STOP_SECONDS)


def _end(ended: asyncio.Future[None], error: BaseException | None) -> None:
    if ended.done():
        return
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(OperatorError(f"the watch of {PLURAL}.{GROUP} broke down: {error!r}"))


async def _run_kopf(client: KubeClient, namespaces: Collection[str], inbox: Inbox, stop: threading.Event) -> None:
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return await _connection(client)

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
    async def changed(event: kopf.RawEvent, **_: Any) -> None:
        inbox.put(event["type"], dict(event["object"]))

    await kopf.operator(
        registry=registry,
        settings=_settings(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=list(namespaces),
        stop_flag=stop,
    )


def _settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.batching.worker_limit = None  # one that is set can starve objects (nolar/kopf#1243)
    # Watches of their own accord stop seeing events, and nobody notices (nolar/kopf#204, #585, #698, #847).
    settings.watching.server_timeout = 240
    settings.watching.connect_timeout = 5
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    # Nothing is stored by kopf; should that ever change, not under the name of a foreign company.
    settings.persistence.finalizer = f"{GROUP}/kopf"
    settings.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=GROUP)
    settings.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(prefix=GROUP)
    return settings


async def _connection(client: KubeClient) -> kopf.ConnectionInfo:
    """The credentials of the client, read anew each time kopf asks: tokens expire."""
    access = client.configuration
    header = await access.get_api_key_with_prefix("BearerToken", alias="authorization")
    scheme, _, token = (header or "").rpartition(" ")
    return kopf.ConnectionInfo(
        server=access.host,
        ca_path=access.ssl_ca_cert,
        insecure=not access.verify_ssl,
        username=access.username or None,
        password=access.password or None,
        scheme=scheme or None,
        token=token or None,
        certificate_path=access.cert_file,
        private_key_path=access.key_file,
    )
