"""The directory as a Serve deployment, and how it reaches shards: found by the handles of their applications."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import ray
from ray import serve
from ray.exceptions import ActorDiedError, NodeDiedError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from moe_contract.applications import EXPERTS, CoreArgs, ModelArgs, Network, ShardRef
from moe_contract.model import ModelFacts
from moe_serving.checkpoint import inspect_model
from moe_serving.directory import directory
from moe_serving.directory.apis import ApiReply, ApiSync
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.messages import StatisticsReport, SyncReply, SyncRequest
from moe_serving.directory.monitor import ShardClient
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription
from moe_serving.fetching.asking import Cached
from moe_serving.fetching.fetch import ask_for_all, local_model
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.serve.direct import Direct, address_of, open_here
from moe_serving.serve.replica import prepare_replica
from moe_serving.wire.caller import Caller
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import PeerGoneError


class Directory:
    """The one replica. Its constructor and ``reconfigure`` never fail: what is wrong is told by ``report``."""

    def __init__(self, args: CoreArgs) -> None:
        prepare_replica()
        self._name = serve.get_replica_context().replica_tag
        self._node = ray.get_runtime_context().get_node_id()
        self._network = args.model.network
        self._directory = directory.Directory(args.model, _inspect, self._connect, inspect_candidate=_inspect_candidate)
        self._direct = Direct(
            open_here(self._network),
            {
                "sync": self._sync,
                "take_statistics": self._take_statistics,
                "exchange": self._exchange,
                "statistics": self._directory.statistics,
                "adopt_statistics": self._directory.adopt_statistics,
            },
        )
        self._running = asyncio.create_task(self._directory.run())

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a new target (``DirectoryConfig``); what is refused is reported.

        A coroutine, since Serve runs other methods in threads, and the directory belongs to one event loop.
        """
        self._directory.configure(config)

    async def address(self) -> Address:
        """Called by handle; all else is called there."""
        return await self._direct.address()

    def check_health(self) -> None:
        """Raises RuntimeError when the loop has ended, or nobody can call: Serve then replaces this process, and it
        asks the shards.
        """
        self._direct.check_health()
        if self._running.done():
            raise RuntimeError(f"the directory's loop has ended: {self._running}")

    async def __del__(self) -> None:
        self._running.cancel()
        await self._direct.close()

    def _connect(self, shard: ShardRef) -> ShardClient:
        return DirectClient(shard, self._name, self._node, self._network)

    async def _sync(self, request: SyncRequest) -> SyncReply:
        """Called by attention replicas, and held while there is nothing to say."""
        return await self._directory.sync(request)

    async def _take_statistics(self, report: StatisticsReport) -> StatisticsHeard:
        """Called by attention replicas when a window of theirs has ended, or another directory lacks something."""
        return self._directory.take_statistics(report)

    async def _exchange(self, sync: ApiSync) -> ApiReply:
        """Called by api replicas every two seconds, and for each scrape and each look of the operator's."""
        return self._directory.exchange(sync)


def _inspect(model: ModelArgs) -> ModelFacts:
    return inspect_model(local_model(model.path), model.dtype, model.weights)


def _inspect_candidate(model: ModelArgs, cached: Cached) -> ModelFacts:
    """What runs gives way to it: so all its files must be to be had, which those that need them fetch only then."""
    facts = _inspect(model)
    ask_for_all(model.path, cached)
    return facts


class DirectClient:
    """Implements ``directory.monitor.ShardClient`` for a shard's application.

    Args:
        name, node: of the directory's replica.
    """

    def __init__(self, shard: ShardRef, name: str, node: str, network: Network) -> None:
        self._application = shard.application
        self._handle: DeploymentHandle[Any] | None = None
        self._calls = Caller(self._find, name, node, network)

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        try:
            description: ShardDescription = await self._calls.call("describe", known, hold, hold=hold)
        except PeerGoneError as error:
            raise ShardGoneError(str(error)) from error
        return description

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        await self._calls.call("assign", incarnation, tuple(load), tuple(free))

    async def look_again(self, incarnation: str, digest: str) -> None:
        await self._calls.call("look_again", incarnation, digest)

    def close(self) -> None:
        self._calls.close()

    async def _find(self) -> Address:
        """
        Raises:
            ShardGoneError: its process has died, and there is no other one yet.
            RayServeException: there is no such application yet.
        """
        if self._handle is None:
            # Asks Serve's controller, in a thread since that call waits.
            self._handle = await asyncio.to_thread(serve.get_deployment_handle, EXPERTS, self._application)
        try:
            return await address_of(self._handle)
        except (ActorDiedError, NodeDiedError) as error:
            raise ShardGoneError(str(error)) from error
        except RayServeException:
            self._handle = None  # the application is gone, and may come back as another one of this name
            raise
