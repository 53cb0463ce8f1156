"""Copies on their way between whole shards: the checkpoint's bits in every dtype, and what dies on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cluster import NODE, LocalCluster, ShardProcess
from waiting import wait_until

from moe_contract.applications import Dtype, ModelArgs, ShardConfig, Weights
from moe_serving.checkpoint.reader import ExpertReader, digest_of
from moe_serving.experts import peers
from moe_serving.experts.description import CHECKPOINT, LoadOrder, ShardDescription, ShardIdentity, Source
from moe_serving.experts.shard import Shard
from moe_serving.fp8.weights import PackingReader

WAIT_S = 120.0
KEYS = [(layer, expert) for layer in range(4) for expert in (1, 6)]


@pytest.fixture(scope="module")
def path(checkpoint_of: Callable[[str], Path]) -> Path:
    return checkpoint_of("mixtral")


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peer is passed over in this process because the machine stands still."""
    monkeypatch.setattr(peers, "CONNECT_SECONDS", WAIT_S)
    monkeypatch.setattr(peers, "PIECE_SECONDS", WAIT_S)


@contextmanager
def shard(path: Path, dtype: Dtype, index: int = 0, weights: Weights = "Checkpoint") -> Iterator[Shard]:
    """In this process."""
    opened = Shard(
        ShardIdentity(index, NODE, "127.0.0.1"),
        ModelArgs(path=str(path), dtype=dtype, device="cpu", weights=weights),
        ShardConfig(slots_per_shard=4),
    )
    opened.start()
    wait_until(lambda: opened.describe().address is not None, "the shard to open", WAIT_S)
    try:
        yield opened
    finally:
        opened.stop(WAIT_S)


def load(target: Shard, *sources: Source) -> ShardDescription:
    orders = [LoadOrder(*key, (*sources, CHECKPOINT)) for key in KEYS]
    target.assign(target.describe().incarnation, orders, ())
    wait_until(lambda: not target.describe().loading.queue, "the experts to be loaded", WAIT_S)
    return target.describe()


@pytest.mark.parametrize(
    ("dtype", "weights"),
    [("float32", "Checkpoint"), ("bfloat16", "Checkpoint"), ("float16", "Checkpoint"), ("bfloat16", "FP8")],
)
def test_copies_from_a_peer_have_the_checkpoints_bits(path: Path, dtype: Dtype, weights: Weights) -> None:
    """Packed ones those that packing them makes."""
    reader = (PackingReader if weights == "FP8" else ExpertReader)(path, dtype, "cpu")
    with shard(path, dtype, 0, weights) as first, shard(path, dtype, 1, weights) as second:
        told = load(first)
        assert told.counts["from_checkpoint"] == len(KEYS) * reader.form.nbytes
        told = load(second, told.address)
        assert told.counts["from_peers"] == len(KEYS) * reader.form.nbytes
        assert not told.counts.keys() & {"from_checkpoint", "refused", "damaged"}
        assert second._open is not None
        for layer, expert in KEYS:
            own = reader.read(layer, expert)
            with second._open.pool.pinned(layer, [expert]) as slots:
                assert slots[expert].digest == digest_of(own)
                held = slots[expert].weights
                for got, expected in ((held.gate_up, own.gate_up), (held.down, own.down)):
                    assert torch.equal(got.view(torch.uint8), expected.view(torch.uint8))


def test_a_copy_that_was_damaged_since_it_was_loaded_is_refused_and_read_from_the_checkpoint(path: Path) -> None:
    reader = ExpertReader(path, "float32", "cpu")
    with shard(path, "float32") as first, shard(path, "float32", 1) as second:
        address = load(first).address
        assert first._open is not None
        with first._open.pool.pinned(*(2, [6])) as slots:
            slots[6].weights.gate_up[3, 3] += 1.0
        told = load(second, address)
        assert told.counts["refused"] == 1
        assert told.counts["from_checkpoint"] == reader.form.nbytes
        assert told.counts["from_peers"] == (len(KEYS) - 1) * reader.form.nbytes
        assert told.problem is None
        assert second._open is not None
        with second._open.pool.pinned(2, [6]) as slots:
            assert torch.equal(slots[6].weights.gate_up, reader.read(2, 6).gate_up)
        wait_until(lambda: first.describe().counts["damaged"] == 1, "who sent it to look at it", WAIT_S)
        held = first.describe().held
        assert held is not None
        assert [key for key in KEYS if not held[key]] == [(2, 6)], "it would compute with it"
        second.assign(second.describe().incarnation, (), KEYS)
        told = load(second, address)
        assert told.counts["refused"] == 1


def test_a_copy_that_was_damaged_is_replaced_where_it_was(path: Path) -> None:
    """The third shard is to hold what the first does, whose copy was damaged in its memory: both end up whole."""
    with LocalCluster.start(path, shards=3, verify=True) as cluster:
        cluster.place(shards=1, copies=1)
        cluster.shards[0].call("corrupt", 2, 6)
        for _ in range(20):
            cluster.place(shards=3, copies=3)
            if refused := sum(shard.refused for shard in cluster.report().shards):
                break
            cluster.place(shards=1, copies=1)  # on a machine that stands still a peer is passed over
        assert refused
        wait_until(lambda: cluster.report().shards[0].damaged == 1, "the copy to be given up", WAIT_S)
        cluster.wait_settled()
        assert cluster.client().forward(2, torch.randn(8, 64), torch.tensor([[6, 1]] * 8), torch.rand(8, 2)).any()
        for index in (1, 2):
            cluster.kill(index)  # so that the first is asked; what it says is verified
        cluster.client().forward(2, torch.randn(8, 64), torch.tensor([[6, 1]] * 8), torch.rand(8, 2))


def held(process: ShardProcess) -> int:
    """Copies; none where its process has just begun."""
    copies = process.call("describe").held
    return 0 if copies is None else int(copies.sum())


def came(process: ShardProcess) -> tuple[int, int]:
    """Bytes from peers, and from the checkpoint."""
    counts = process.call("describe").counts
    return counts.get("from_peers", 0), counts.get("from_checkpoint", 0)


def test_whoever_dies_on_the_way_the_placement_is_reached_whole(path: Path) -> None:
    """Copies move slowly: the shard that they come from is killed, then the one that they come to.

    One that is silent for a while, since the machine is busy, is passed over too, so only sums are certain.
    """
    with LocalCluster.start(path, shards=2, verify=True) as cluster:
        size = cluster.facts.bytes_per_expert
        cluster.max_bytes_per_second = 8 * size
        cluster.place(shards=1, copies=1)
        experts = cluster.facts.layers * cluster.facts.experts
        wait_until(lambda: came(cluster.shards[0]) == (0, experts * size), "all to be read", WAIT_S)

        cluster.place(shards=2, copies=2, wait=False)
        wait_until(lambda: held(cluster.shards[1]) >= 2, "some copies", WAIT_S)
        cluster.kill(0)
        wait_until(lambda: held(cluster.shards[1]) == experts, "the others, of which nobody holds a copy", WAIT_S)
        wait_until(lambda: sum(came(cluster.shards[1])) == experts * size, "each to be counted once", WAIT_S)

        cluster.restart(0)
        wait_until(lambda: held(cluster.shards[0]) >= 2, "some copies to come back", WAIT_S)
        cluster.kill(0)
        cluster.max_bytes_per_second = 0
        cluster.restart(0)
        cluster.wait_settled()
        wait_until(lambda: sum(came(cluster.shards[0])) == experts * size, "each to be counted once", WAIT_S)

        client = cluster.client()
        cluster.kill(1)
        rows, ids = torch.randn(8, 64), torch.arange(8).repeat(8, 1)[:, :2] + torch.arange(0, 8, 2).repeat(2)[:, None]
        for layer in range(cluster.facts.layers):
            client.forward(layer, rows, ids % 8, torch.rand(8, 2))  # verified bit for bit against the checkpoint
