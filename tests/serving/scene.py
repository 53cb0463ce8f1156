"""A directory, shards that are plain objects, one attention replica, and a clock that is set by hand."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import numpy as np

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardRef, Weights
from moe_contract.model import ModelFacts
from moe_placement import Placement
from moe_placement.encoding import encode_placement
from moe_serving.directory.directory import Directory
from moe_serving.directory.messages import AttentionStatus, SyncRequest
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.window import Window
from moe_serving.wire.endpoint import Address

LAYERS, EXPERTS = 2, 4
MODEL = ModelArgs(path="/m")
FACTS = ModelFacts(
    digest="sha256:d",
    architecture="Mixtral",
    layers=LAYERS,
    experts=EXPERTS,
    top_k=2,
    bytes_per_expert=8,
    dtype="float32",
    max_context=64,
)


_lives = itertools.count()


class FakeShard:
    """Loads at once whatever it is told to, and holds no answer back."""

    def __init__(self, index: int, node: str = "node") -> None:
        self.index = index
        self.node = node
        self.capacity = LAYERS * EXPERTS + 2
        self.digest = FACTS.digest
        self.weights: Weights = "Checkpoint"
        self.fault: Exception | None = None
        self.counts: dict[str, int] = {}
        self.orders: list[LoadOrder] = []
        self.doubted: list[str] = []
        self.start()

    def start(self) -> None:
        self.incarnation = f"{self.index}-{next(_lives)}"
        self.held = np.zeros((LAYERS, EXPERTS), dtype=bool)

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        if self.fault is not None:
            raise self.fault
        return ShardDescription(
            index=self.index,
            node=self.node,
            incarnation=self.incarnation,
            pid=100 + self.index,
            address=Address(self.node, b"key", unix_name=f"/{self.incarnation}"),
            digest=self.digest,
            capacity=self.capacity,
            held=self.held.copy(),
            counts=self.counts,
            weights=self.weights,
            version=f"{self.incarnation} {self.digest} {self.weights} {self.capacity} {self.held.tobytes()!r}",
        )

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        assert incarnation == self.incarnation
        for layer, expert in free:
            self.held[layer, expert] = False
        self.orders += load
        for order in load:
            self.held[order.key] = True
        assert self.held.sum() <= self.capacity

    async def look_again(self, incarnation: str, digest: str) -> None:
        assert incarnation == self.incarnation
        self.doubted.append(digest)

    def close(self) -> None:
        pass


class Scene:
    """A directory, its shards, and one attention replica."""

    def __init__(self, shards: int | Sequence[FakeShard]) -> None:
        self.now = 1000.0
        self.shards = [FakeShard(index) for index in range(shards)] if isinstance(shards, int) else [*shards]
        self.version = TableVersion(0, "")
        self.table: RoutingTable | None = None
        self.revision = 0
        self.directory = self.new_directory()

    def new_directory(self) -> Directory:
        return Directory(MODEL, lambda model: FACTS, lambda ref: self.shards[ref.index], lambda: self.now)

    async def restart_directory(self) -> None:
        self.directory = self.new_directory()
        await self.directory.inspect_model()
        self.directory.configure(self.config)

    def place(self, placement: Placement, min_copies: int = 1) -> None:
        self.revision += 1
        self.config = DirectoryConfig(
            term=1,
            revision=self.revision,
            shards=tuple(ShardRef(index=i, application=f"s{i}") for i in range(placement.shards)),
            min_copies=min_copies,
            placement=encode_placement(placement),
        ).model_dump(mode="json")
        self.directory.configure(self.config)

    async def sync(self, *windows: Window, sequence: int = 0) -> bool:
        """Whether the windows were counted."""
        request = SyncRequest("a", self.version, sequence, windows, AttentionStatus(ready=True, running=2, pid=7))
        reply = await self.directory.sync(request)
        if reply.table is not None:
            self.table, self.version = reply.table, reply.table.version
        return reply.counted

    async def turns(self, count: int, sync: bool = True) -> None:
        for _ in range(count):
            self.now += 0.25
            await asyncio.gather(*(monitor.poll() for monitor in self.directory._monitors))
            await self.directory.turn()
            if sync:
                await self.sync()
