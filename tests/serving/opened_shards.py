"""Shards in this process, with their checkpoint open, and nobody who assigns them experts but the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from waiting import wait_until

from moe_contract.applications import ModelArgs, ShardConfig
from moe_serving.experts.description import ShardIdentity
from moe_serving.experts.shard import Shard


@contextmanager
def opened_shards() -> Iterator[Callable[[int, str], Shard]]:
    """Starts one by its index and the path of its model, and ends all."""
    shards: list[Shard] = []

    def start(index: int, path: str) -> Shard:
        args = ModelArgs(path=path, dtype="float32", device="cpu")
        shard = Shard(ShardIdentity(index, "node", "127.0.0.1"), args, ShardConfig(slots_per_shard=8, spare_slots=2))
        shards.append(shard)
        shard.start()
        wait_until(lambda: shard.describe().address is not None, "the shard to open its checkpoint")
        return shard

    yield start
    for shard in shards:
        shard.stop(10.0)
