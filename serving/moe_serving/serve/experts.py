"""An expert shard as a Serve deployment: a process around ``moe_serving.experts.shard.Shard``.

torch is imported in the background, so that Serve sees the replica running, and the directory hears of it, at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray
from pydantic import ValidationError

from moe_contract.applications import ShardArgs, ShardConfig
from moe_contract.base import in_words
from moe_serving.changes import Changes
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription, ShardIdentity
from moe_serving.experts.errors import ShardNotReadyError
from moe_serving.serve.direct import Direct, open_here
from moe_serving.serve.removal import SHUTDOWN_S
from moe_serving.serve.replica import node_address, prepare_replica
from moe_serving.unknown import tell_unknown
from moe_serving.wire.endpoint import Address

if TYPE_CHECKING:
    from moe_serving.experts.shard import Shard

logger = logging.getLogger(__name__)

_PROBE_S = 8.0
"""For one connection to our own listener: it waits behind what is being computed. Serve allows 10 s."""
_STOP_S = 4.0
"""For the request in work and the answers on their way."""
_DRAIN_S = SHUTDOWN_S - _STOP_S
"""How long attention may go on asking: all that Serve lets a process take."""


class Experts:
    """One shard. Its constructor and ``reconfigure`` never fail: what is wrong is told by ``describe``."""

    def __init__(self, args: ShardArgs) -> None:
        prepare_replica()
        self._args = args
        self._config = ShardConfig()
        self._refused: str | None = None
        self._identity = ShardIdentity(args.index, ray.get_runtime_context().get_node_id(), node_address())
        self._shard: Shard | None = None
        self._changes = Changes()
        self._loop = asyncio.get_running_loop()
        self._starting = asyncio.create_task(self._start())
        self._direct = Direct(
            open_here(args.model.network),
            {"describe": self._describe, "assign": self._assign, "look_again": self._look_again},
        )

    def reconfigure(self, config: dict[str, Any]) -> None:
        """Take a new bound; what cannot be read leaves the old one in force and is told."""
        try:
            self._config, self._refused = ShardConfig.model_validate(config), None
            tell_unknown("the shard", ShardConfig, config)
        except ValidationError as error:
            self._refused = f"user_config of the shard is refused, the old one stays: {in_words(error)}"
            logger.error(self._refused)
        if self._refused is None and self._shard is not None:
            self._shard.configure(self._config)
        self._note()

    async def address(self) -> Address:
        """Called by handle; all else is called there."""
        return await self._direct.address()

    async def _describe(self, known: str | None, hold: float) -> ShardDescription:
        """Called by the directory again and again; see ``directory.monitor.ShardClient``."""
        who = self._identity
        count = self._changes.count
        if known == f"{who.incarnation}.{count}":
            await self._changes.beyond(count, hold)
        # The count before the state: what changes in between then counts as news next time, and is not missed.
        version = f"{who.incarnation}.{self._changes.count}"
        starting = ShardDescription(who.index, who.node, who.incarnation, os.getpid())
        said = self._shard.describe() if self._shard is not None else starting
        return replace(said, problem=said.problem or self._refused, version=version)

    async def _assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        """Called by the directory; see ``Shard.assign``.

        Raises:
            OtherIncarnationError, ShardNotReadyError: the directory looks again and gives other orders.
        """
        if self._shard is None:
            raise ShardNotReadyError("the shard is starting")
        self._shard.assign(incarnation, load, free)

    async def _look_again(self, incarnation: str, digest: str) -> None:
        """Called by the directory; see ``Shard.look_again``.

        Raises:
            OtherIncarnationError: it was meant for an earlier process.
        """
        if self._shard is not None:
            self._shard.look_again(incarnation, digest)

    async def check_health(self) -> None:
        """Raises when a listener or the loop behind it is dead: Serve then replaces this process."""
        self._direct.check_health()
        if self._starting.done():
            self._starting.result()
        if self._shard is not None:
            await asyncio.to_thread(self._shard.probe, _PROBE_S)

    async def __del__(self) -> None:
        self._starting.cancel()
        await self._direct.close()
        if self._shard is not None:
            # Serve knows of no requests here, and would end us before the answers that need us.
            await asyncio.to_thread(self._shard.drain, _DRAIN_S)
            await asyncio.to_thread(self._shard.stop, _STOP_S)

    def _note(self) -> None:
        """Something that ``describe`` says has changed; called on any thread."""
        self._loop.call_soon_threadsafe(self._changes.note)

    async def _start(self) -> None:
        self._shard = await asyncio.to_thread(self._make_shard)
        self._shard.configure(self._config)

    def _make_shard(self) -> Shard:
        from moe_serving.experts.shard import Shard  # noqa: PLC0415 - imports torch, which takes seconds

        shard = Shard(self._identity, self._args.model, self._config, self._note)
        shard.start()
        return shard
