"""Shards that are functions of this process, behind the protocol of the wire: for tests of what is sent where."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from moe_serving.experts.messages import ComputeReply, ComputeRequest
from moe_serving.routing.table import RoutingTable, ShardAddress, TableVersion
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import ConnectionLostError
from moe_serving.wire.transport import Message


@dataclass
class FakeShard:
    """Expert ``e`` multiplies rows by ``e + 1``. ``seconds`` is how long an answer takes; what came and went is in
    ``messages`` and ``answers``."""

    held: set[int]
    seconds: float = 0.0
    broken: bool = False
    asked: list[list[int]] = field(default_factory=list)
    features: frozenset[str] = frozenset()
    messages: list[Message] = field(default_factory=list)
    answers: list[Message] = field(default_factory=list)

    def answer(self, message: Message) -> Message:
        packed = ComputeRequest.from_message(message)
        request = packed.unpacked(torch.float32)
        experts = request.experts.tolist()
        self.asked.append(experts)
        sums = torch.zeros(request.hidden.shape)
        for row, (begin, end) in enumerate(zip(request.offsets[:-1], request.offsets[1:], strict=True)):
            for pair in range(int(begin), int(end)):
                if experts[pair] in self.held:
                    sums[row] += request.hidden[row] * (experts[pair] + 1) * request.weights[pair]
        missing = [pair for pair, expert in enumerate(experts) if expert not in self.held]
        reply = ComputeReply(sums, torch.tensor(missing, dtype=torch.int32)).to_message(packed.scales is not None)
        self.answers.append(reply)
        return reply


class FakeCompletion:
    def __init__(self, reply: Callable[[], Message], ready: float, broken: bool) -> None:
        self._reply, self._ready, self._broken = reply, ready, broken

    @property
    def ready(self) -> float:
        return self._ready

    @property
    def done(self) -> bool:
        return self._broken or time.monotonic() >= self._ready

    def result(self) -> Message:
        if self._broken:
            raise ConnectionLostError("reset by peer")
        return self._reply()


class FakeTransport:
    def __init__(self, shard: FakeShard) -> None:
        self._shard = shard

    @property
    def features(self) -> frozenset[str]:
        return self._shard.features

    def submit(self, message: Message) -> FakeCompletion:
        shard = self._shard
        shard.messages.append(message)
        return FakeCompletion(lambda: shard.answer(message), time.monotonic() + shard.seconds, shard.broken)

    def close(self) -> None:
        pass


class FakeFabric:
    """Shards by the path of their address."""

    def __init__(self, shards: Sequence[FakeShard]) -> None:
        self._shards = {f"/{index}": shard for index, shard in enumerate(shards)}

    def connect(self, address: Address, timeout: float) -> FakeTransport:
        return FakeTransport(self._shards[str(address.unix_name)])

    def wait(self, pending: Sequence[FakeCompletion], timeout: float) -> None:
        until = min(time.monotonic() + timeout, *(completion.ready for completion in pending))
        if not any(completion.done for completion in pending):
            time.sleep(max(0.0, until - time.monotonic()))


def table_of(held: NDArray[np.bool_], epoch: int = 1, nodes: Sequence[str] | None = None) -> RoutingTable:
    """A table of ``FakeFabric``'s shards; ``nodes`` are theirs, one for all if left out."""
    names = ["node"] * held.shape[2] if nodes is None else nodes
    paths = [Address(name, b"", unix_name=f"/{index}") for index, name in enumerate(names)]
    addresses = tuple(ShardAddress(index, f"life-{index}", path) for index, path in enumerate(paths))
    return RoutingTable(TableVersion(epoch, "directory"), addresses, held)
