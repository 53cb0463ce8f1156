"""An attention replica as a Serve deployment: the engine, and the way of its tokens back to the api that asked."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

import ray
from pydantic import ValidationError
from ray import serve
from ray.serve.handle import DeploymentHandle

from moe_contract.applications import AttentionConfig, CoreArgs
from moe_contract.base import in_words
from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncReply, SyncRequest, other_model
from moe_serving.engine.errors import QueueFullError
from moe_serving.engine.request import GenerationRequest, TokenEvent
from moe_serving.fetching.fetch import bring, local_args, renew_outline
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.routing.sync import DirectorySync
from moe_serving.serve.direct import address_of
from moe_serving.serve.replica import node_address, prepare_replica
from moe_serving.serve.table_keeper import TableKeeper
from moe_serving.streams.errors import ReplicaLostError
from moe_serving.streams.messages import StreamEvent
from moe_serving.streams.sender import SenderPool, StreamSender
from moe_serving.unknown import tell_unknown
from moe_serving.wire.caller import Caller
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import WireError

if TYPE_CHECKING:
    from moe_serving.serve.loaded import LoadedEngine

logger = logging.getLogger(__name__)

_LOAD_AGAIN_S = 2.0
"""Pause before a checkpoint that could not be loaded is tried again: it may still be on its way to this node."""
_STUCK_S = 20.0
"""Serve replaces a replica whose engine is stuck for so long; its requests go on elsewhere from the first moment on."""
_STOP_S = 10.0


class Attention:
    """One attention replica. Its constructor and ``reconfigure`` never fail: a bad model is reported, not raised.

    A replica that cannot load the model counts as starting for Serve and gets no calls: one that turned them away at
    once would always have the shortest queue, and attract them all.
    """

    def __init__(self, args: CoreArgs, directory: DeploymentHandle[Any]) -> None:
        self._args = args
        prepare_replica()
        context = serve.get_replica_context()
        self._name = context.replica_tag
        self._number = context.rank.rank
        self._node = ray.get_runtime_context().get_node_id()
        self._host = node_address()
        self._senders = SenderPool(self._name, self._node, args.model.network, self._goes_on)
        self._limits = AttentionConfig()
        self._loaded: LoadedEngine | None = None
        self._problem: str | None = None
        self._refused: str | None = None
        self._loading: asyncio.Task[None] | None = None
        self._tables = TableKeeper()
        self._directory, self._statistics = (
            Caller(lambda: address_of(directory), self._name, self._node, args.model.network) for _ in range(2)
        )
        self._directorys_digest: str | None = None
        self._fetched: tuple[int, int] | None = None
        sync = DirectorySync(self._tables, self._name, self._status, self._sync, self._tell_statistics)
        self._syncing = asyncio.create_task(sync.run())

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take new limits; what cannot be read leaves the old ones and is told. The first call is part of Serve's start
        of a replica and returns once the model is loaded, however long that takes; all later ones return at once.
        """
        try:
            self._limits, self._refused = AttentionConfig.model_validate(config), None
            tell_unknown("attention", AttentionConfig, config)
        except ValidationError as error:
            self._refused = f"user_config of attention is refused, the old one stays: {in_words(error)}"
            logger.error(self._refused)
        if self._loading is None:
            self._loading = asyncio.create_task(self._keep_loading())
            await self._loading
        elif self._loaded is not None:
            self._loaded.reconfigure(self._limits)

    async def generate(self, request: GenerationRequest, stream: int, address: Address) -> None:
        """Answer a request on a stream of the api at ``address``; lives as long as the request does.

        Raises:
            ReplicaLostError: not this replica: it does not serve, or the api hung up.
            RequestRefusedError: no replica can ever answer it.
            QueueFullError: this one has enough to do.
        """
        if self._loaded is None:
            raise self._lost("has not loaded the model")
        if not self._goes_on():
            raise self._lost("is stuck in a step" if self._loaded.engine.alive else "is stopping")
        try:
            sender = await self._senders.get(address)
        except WireError as error:
            raise self._lost(f"cannot reach the api: {error}") from error
        await _Answer(self._loaded, sender, request, stream).run()

    def check_health(self) -> None:
        """Raises RuntimeError when the engine is dead or stuck, or tables come no more: Serve then replaces this
        replica.
        """
        if self._syncing.done():
            raise RuntimeError(f"the reports to the directory have ended: {self._syncing}")
        if self._loaded is None:
            return
        if not self._loaded.engine.alive:
            raise RuntimeError("the engine's thread has ended")
        overdue = self._loaded.engine.overdue_s
        if overdue > _STUCK_S:
            raise RuntimeError(f"the engine has been stuck for {overdue:.0f} s")

    async def __del__(self) -> None:
        self._syncing.cancel()
        self._directory.close()
        self._statistics.close()
        if self._loading is not None:
            self._loading.cancel()
        if self._loaded is not None:
            await asyncio.to_thread(self._loaded.stop, _STOP_S)
        await self._senders.close()

    def _goes_on(self) -> bool:
        """Whether answers go on here: the engine's thread is there and not stuck, whatever this loop does."""
        engine = self._loaded.engine if self._loaded is not None else None
        return engine is not None and engine.alive and engine.overdue_s == 0.0

    def _lost(self, why: str) -> ReplicaLostError:
        return ReplicaLostError(f"attention replica {self._name} {why}", self._name)

    async def _keep_loading(self) -> None:
        while self._loaded is None:
            limits = self._limits
            try:
                loaded = await asyncio.to_thread(self._load, limits)
            except Exception as error:  # whatever a bad checkpoint or a full GPU raises is reported
                self._problem = str(error) or type(error).__name__
                logger.warning("the model at %s cannot be loaded", self._args.model.path, exc_info=error)
                await asyncio.sleep(_LOAD_AGAIN_S)
                continue
            if self._limits != limits:
                loaded.reconfigure(self._limits)
            self._tables.attach(loaded.experts)
            self._loaded, self._problem = loaded, None

    async def _sync(self, request: SyncRequest) -> SyncReply:
        reply: SyncReply = await self._directory.call("sync", request, hold=request.hold)
        self._directorys_digest = reply.digest
        return reply

    async def _tell_statistics(self, report: StatisticsReport) -> StatisticsHeard:
        """By a connection of its own: reports do not wait behind megabytes."""
        heard: StatisticsHeard = await self._statistics.call("take_statistics", report)
        return heard

    def _status(self) -> AttentionStatus:
        if self._loaded is None:
            problem = self._problem or self._refused
            return AttentionStatus(
                False, problem, pid=os.getpid(), node=self._node, host=self._host, fetched=self._fetched
            )
        stats = self._loaded.engine.stats()
        return AttentionStatus(
            ready=True,
            problem=self._refused or self._loaded.problem,
            digest=self._loaded.digest,
            running=stats.running,
            waiting=stats.waiting,
            kv_tokens=stats.kv_tokens_used,
            pid=os.getpid(),
            node=self._node,
            host=self._host,
            adaptive=self._loaded.adaptive.report,
            wire=self._loaded.wire.in_force,
        )

    def _load(self, limits: AttentionConfig) -> LoadedEngine:
        # First without torch: while a bad model is told of, nobody should wait for the processor because of it.
        model = local_args(self._args.model)
        checkpoint = Checkpoint.open(model.path)
        facts = checkpoint.facts(model.dtype)
        from moe_serving.serve.loaded import LoadedEngine  # noqa: PLC0415 - imports torch, which takes seconds

        strange = other_model(facts.digest, self._directorys_digest)
        if strange is not None:
            try:
                renew_outline(self._args.model.path)
            except ModelError as error:
                strange = f"{strange}; who keeps the model was asked anew, in vain: {error}"
            raise ModelError("ConfigInvalid", strange)
        files = checkpoint.files if model.verify else checkpoint.other_files
        bring(self._args.model.path, files, heard=self._note_fetched)
        self._fetched = None
        return LoadedEngine.load(model, limits, f"attention {self._name}", self._node, self._number)

    def _note_fetched(self, done: int, total: int) -> None:
        self._fetched = done, total


class _Answer:
    """One request on its way through the engine."""

    def __init__(self, loaded: LoadedEngine, sender: StreamSender, request: GenerationRequest, stream: int) -> None:
        self._engine = loaded.engine
        self._sender = sender
        self._request = request
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._abandoned: str | None = None
        self._full: QueueFullError | None = None

    async def run(self) -> None:
        """Until the last token is on its way; cancelling it cancels the request."""
        self._engine.submit(self._request, self._on_event)
        self._sender.push(StreamEvent(self._stream))
        ended, hung_up = asyncio.create_task(self._ended.wait()), asyncio.create_task(self._sender.lost.wait())
        try:
            await asyncio.wait({ended, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._engine.cancel(self._request.request_id)
            ended.cancel()
            hung_up.cancel()
        if self._full is not None:
            raise self._full
        if self._abandoned is not None or not self._ended.is_set():
            raise ReplicaLostError(self._abandoned or "the connection to the api is closed")

    def _on_event(self, event: TokenEvent) -> None:
        """Called on the engine's thread."""
        if event.retry_after_s is not None:
            self._full = QueueFullError(event.error or "the queue is full", event.retry_after_s)
        elif event.finish_reason == "error" and not self._engine.alive:
            # Not the request failed but the engine under it: another replica goes on.
            self._abandoned = event.error
        else:
            self._sender.push(StreamEvent(self._stream, event.token_ids, event.finish_reason, event.error))
        if event.finish_reason is not None:
            self._loop.call_soon_threadsafe(self._ended.set)
