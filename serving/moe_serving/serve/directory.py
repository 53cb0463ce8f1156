"""The directory as a Serve deployment, and how it reaches shards: by the handles of their applications."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.exceptions import ActorDiedError, NodeDiedError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from moe_contract.applications import EXPERTS, CoreArgs, ModelArgs, ShardRef
from moe_contract.model import ModelFacts
from moe_serving.checkpoint import inspect_model
from moe_serving.directory import directory
from moe_serving.directory.apis import ApiReply, ApiSync
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.messages import SyncReply, SyncRequest
from moe_serving.experts.description import ExpertKey, ShardDescription
from moe_serving.serve.replica import prepare_replica


class Directory:
    """The one replica. Its constructor and ``reconfigure`` never fail: what is wrong is told by ``report``."""

    def __init__(self, args: CoreArgs) -> None:
        prepare_replica()
        self._directory = directory.Directory(args.model, _inspect, connect=HandleClient)
        self._running = asyncio.create_task(self._directory.run())

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a new target (``DirectoryConfig``); what is refused is reported.

        A coroutine, since Serve runs other methods in threads, and the directory belongs to one event loop.
        """
        self._directory.configure(config)

    async def sync(self, request: SyncRequest) -> SyncReply:
        """Called by attention replicas, and held while there is nothing to say."""
        return await self._directory.sync(request)

    async def exchange(self, sync: ApiSync) -> ApiReply:
        """Called by api replicas once a second, and for each scrape and each look of the operator's."""
        return self._directory.exchange(sync)

    def check_health(self) -> None:
        """Raises RuntimeError when the loop has ended: Serve then replaces this process, and it asks the shards."""
        if self._running.done():
            raise RuntimeError(f"the directory's loop has ended: {self._running}")

    def __del__(self) -> None:
        self._running.cancel()


def _inspect(model: ModelArgs) -> ModelFacts:
    return inspect_model(model.path, model.dtype)


class HandleClient:
    """Implements ``directory.monitor.ShardClient`` for a shard's application."""

    def __init__(self, shard: ShardRef) -> None:
        self._application = shard.application
        self._handle: DeploymentHandle[Any] | None = None

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        handle = await self._get_handle()
        try:
            description: ShardDescription = await handle.describe.remote(known, hold)
        except (ActorDiedError, NodeDiedError) as error:
            raise ShardGoneError(str(error)) from error
        except RayServeException:
            self._handle = None  # the application is gone, and may come back as another one of this name
            raise
        return description

    async def assign(self, incarnation: str, load: Sequence[ExpertKey], free: Sequence[ExpertKey]) -> None:
        handle = await self._get_handle()
        await handle.assign.remote(incarnation, tuple(load), tuple(free))

    async def _get_handle(self) -> DeploymentHandle[Any]:
        """Asks Serve's controller, in a thread since that call waits.

        Raises:
            RayServeException: there is no such application yet.
        """
        if self._handle is None:
            self._handle = await asyncio.to_thread(serve.get_deployment_handle, EXPERTS, self._application)
        return self._handle
