"""The api as a Serve deployment: HTTP ingress in front of the attention replicas."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RequestCancelledError
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moe_contract.applications import CoreArgs
from moe_serving.api.app import build_app
from moe_serving.api.errors import GenerationError, InvalidRequestError, OverloadedError, RemovedError
from moe_serving.api.service import Service
from moe_serving.directory.apis import ApiReply, ApiSync
from moe_serving.engine.errors import EngineStoppedError, QueueFullError, RequestRefusedError
from moe_serving.engine.request import GenerationRequest
from moe_serving.errors import MoEServingError
from moe_serving.serve.avoidance import LOST
from moe_serving.serve.direct import address_of, answer_of
from moe_serving.serve.removal import ANSWERS_S, wait_for_removal
from moe_serving.serve.replica import node_address, prepare_replica
from moe_serving.serve.unanswered import SIGNATURE
from moe_serving.streams.errors import ReplicaLostError
from moe_serving.streams.receiver import StreamReceiver
from moe_serving.streams.source import ReplicatedSource
from moe_serving.wire.caller import Caller

_REPLY_S = 3.0
"""For one reply: a call that was under way when Serve began to take the directory away waits for ever."""
_STATISTICS_S = 30.0
"""For statistics of a large model, which the directory merges and packs for seconds."""

logger = logging.getLogger(__name__)


class Api:
    """One api process. Its constructor and ``reconfigure`` never fail: what is wrong is told by the routes."""

    def __init__(self, args: CoreArgs, attention: DeploymentHandle[Any], directory: DeploymentHandle[Any]) -> None:
        prepare_replica()
        self._attention = attention
        self._network, self._host = args.model.network, node_address()
        name, node = serve.get_replica_context().replica_tag, ray.get_runtime_context().get_node_id()
        self._directory = Caller(lambda: address_of(directory), name, node, self._network)
        self._receiver = StreamReceiver()
        self._service = Service(args.model.path, self._tell_directory, self._fetch_statistics, self._adopt_statistics)
        self._service.source = self._source = ReplicatedSource(
            self._receiver,
            self._ask_replica,
            self._service.metrics.attention_failovers.inc,
            LOST.add,
            self._has_several_replicas,
        )
        self._started = False
        self._running = asyncio.create_task(self._service.run())
        self._ending = asyncio.create_task(self._end_with(args.application))

    async def __serve_build_asgi_app__(self) -> ASGIApp:
        """Called by ``serve.ingress`` when the replica starts."""
        node = ray.get_runtime_context().get_node_id()
        self._address = await self._receiver.start(node, self._host, self._network)
        return signed(build_app(self._service), serve.get_replica_context().replica_tag)

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take new names, bounds and keys; see ``Service.configure``. The first call is part of Serve's start of a
        replica and returns once requests may come; all later ones return at once.
        """
        self._service.configure(config)
        if not self._started:
            self._started = True
            await self._service.may_be_asked()

    def check_health(self) -> None:
        """Raises RuntimeError when the background work has ended: Serve then replaces this replica."""
        if self._running.done():
            raise RuntimeError(f"the api's background task has ended: {self._running}")

    async def __del__(self) -> None:
        await self._service.watch.tell_last()
        self._running.cancel()
        self._ending.cancel()
        self._directory.close()
        await self._receiver.close()

    async def _end_with(self, application: str) -> None:
        """End the answers that are still under way some time after the removal of ``application`` began."""
        await wait_for_removal(application, lambda: self._service.watch.away)
        logger.info("%s is being removed: answers under way may take %.0f s more", application, ANSWERS_S)
        await asyncio.sleep(ANSWERS_S)
        self._source.end(RemovedError())

    async def _tell_directory(self, sync: ApiSync) -> ApiReply:
        try:
            async with asyncio.timeout(_REPLY_S):
                reply: ApiReply = await self._directory.call("exchange", replace(sync, host=self._host))
        except TimeoutError:
            raise TimeoutError(f"the directory did not answer within {_REPLY_S:.0f} s") from None
        return reply

    async def _fetch_statistics(self) -> bytes | None:
        async with asyncio.timeout(_STATISTICS_S):
            packed: bytes | None = await self._directory.call("statistics")
        return packed

    async def _adopt_statistics(self, packed: bytes, source: str) -> str | None:
        async with asyncio.timeout(_STATISTICS_S):
            refused: str | None = await self._directory.call("adopt_statistics", packed, source)
        return refused

    def _has_several_replicas(self) -> bool:
        report = self._service.watch.report
        return report is not None and sum(replica.ready for replica in report.attention) > 1

    async def _ask_replica(self, request: GenerationRequest, stream: int) -> None:
        """See ``streams.source.Call``."""
        try:
            await answer_of(self._attention.generate.remote(request, stream, self._address))
        except Exception as error:
            raise translate(error, request.request_id) from error


def signed(app: ASGIApp, replica: str) -> ASGIApp:
    """``app`` with a header on every answer that says who gave it, as Serve's status and logs call it."""
    header = (SIGNATURE.encode(), replica.encode())

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def sign(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), header]
            await send(message)

        await app(scope, receive, sign)

    return answer


def translate(error: Exception, request_id: str) -> MoEServingError:
    """What a failed call to an attention replica means for its request: see ``streams.source.Call``."""
    # What a replica raises comes as an exception of both its own class and Ray's, whose text is the remote traceback.
    said: Any = getattr(error, "cause", error)
    match error:
        case RequestRefusedError():
            return InvalidRequestError(str(said))
        case QueueFullError():
            return OverloadedError(str(said), said.retry_after_s)
        case ReplicaLostError():
            return ReplicaLostError(str(said), getattr(said, "replica", None))
        case EngineStoppedError() | DeploymentUnavailableError():
            return ReplicaLostError(str(said))
        case BackPressureError() | RequestCancelledError():
            return ReplicaLostError(f"Serve turned the call away: {said}")
    if isinstance(error, RayError) and not isinstance(error, RayTaskError):
        # Its process or node is gone, or cannot be reached.
        return ReplicaLostError(f"{type(error).__name__} of an attention replica")
    logger.error("request %s failed in its attention replica", request_id, exc_info=error)
    return GenerationError("the attention replica failed; its log says more")
