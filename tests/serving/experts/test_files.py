"""A shard of a checkpoint in several files, kept elsewhere: it fetches those that hold its experts as it needs them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import torch
from driver import complete, greedy, running_engine
from opened_shards import opened_shards
from own_cache import own_cache
from parted import EVEN, FILES, ODD, OTHERS, part
from reference import prompts, reference_greedy
from stub_hub import REPOSITORY, REVISION, StubHub, files_of, running
from waiting import wait_until

from moe_serving.checkpoint import Checkpoint
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.experts.description import CHECKPOINT, LoadOrder
from moe_serving.experts.shard import Shard
from moe_serving.fetching import fetch
from moe_serving.fetching.cache import Cache
from moe_serving.routing.client import MAX_REPLY_BYTES, RemoteExperts
from moe_serving.routing.table import RoutingTable, ShardAddress, TableVersion
from moe_serving.wire.transport import SocketFabric

MODEL = f"hf://{REPOSITORY}@{REVISION}"


@pytest.fixture(scope="module")
def parted(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return part(checkpoint_of("mixtral"), tmp_path_factory.mktemp("parted") / "model")


@pytest.fixture
def hub(parted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StubHub]:
    with own_cache(tmp_path, monkeypatch), running(StubHub(files_of(parted))) as stub:
        monkeypatch.setenv("HF_ENDPOINT", stub.url)
        yield stub


@pytest.fixture
def start(hub: StubHub) -> Iterator[Callable[[int], Shard]]:
    """Shards whose checkpoint is open; for them nothing but what tells of weights was fetched."""
    with opened_shards() as start:
        yield lambda index: start(index, MODEL)


def assign(shard: Shard, *orders: LoadOrder) -> None:
    shard.assign(shard.describe().incarnation, orders, [])


def from_checkpoint(expert: int) -> tuple[LoadOrder, ...]:
    return tuple(LoadOrder(layer, expert) for layer in range(4))


def wait_loaded(shard: Shard) -> None:
    wait_until(lambda: not shard.describe().loading.queue, "the experts to be loaded", 60)


def weights(hub: StubHub) -> dict[str, int]:
    return {name: count for name, count in hub.gets.items() if name in FILES}


def assert_holds(shard: Shard, parted: Path, *experts: int) -> None:
    """Exactly these in each layer, byte by byte."""
    held = shard.describe().held
    assert held is not None
    assert sorted({int(expert) for _, expert in zip(*held.nonzero(), strict=True)}) == sorted(experts)
    reader, pool = ExpertReader(parted, "float32", "cpu"), shard._open.pool if shard._open else None
    assert pool is not None
    for layer in range(4):
        with pool.pinned(layer, list(experts)) as slots:
            for expert in experts:
                wanted = reader.read(layer, expert)
                assert torch.equal(slots[expert].weights.gate_up, wanted.gate_up)
                assert torch.equal(slots[expert].weights.down, wanted.down)


def test_a_shard_fetches_the_files_of_its_experts_and_more_when_it_takes_more_on(
    start: Callable[[int], Shard], hub: StubHub, parted: Path
) -> None:
    shard = start(0)
    said = shard.describe()
    assert said.digest == Checkpoint.open(parted).digest
    assert not said.near_checkpoint, "what others hold comes from them first"
    assert weights(hub) == {}
    assign(shard, *from_checkpoint(2), *from_checkpoint(4))
    wait_loaded(shard)
    assert weights(hub) == {EVEN: 1}
    assert_holds(shard, parted, 2, 4)
    assign(shard, *from_checkpoint(3))
    wait_loaded(shard)
    assert weights(hub) == {EVEN: 1, ODD: 1}
    assert_holds(shard, parted, 2, 3, 4)
    assert shard.describe().fetched is None


def test_what_a_peer_holds_comes_from_it_and_no_file_is_fetched(
    start: Callable[[int], Shard], hub: StubHub, parted: Path
) -> None:
    first, second = start(0), start(1)
    assign(first, *from_checkpoint(1))
    wait_loaded(first)
    peer = first.describe().address
    # First in the queue what needs a file, which is what comes last.
    assign(second, *from_checkpoint(0), *(LoadOrder(layer, 1, (peer, CHECKPOINT)) for layer in range(4)))
    wait_loaded(second)
    assert_holds(second, parted, 0, 1)
    assert weights(hub) == {ODD: 1, EVEN: 1}
    counts = second.describe().counts
    assert counts["from_peers"] == counts["from_checkpoint"] > 0


def test_where_the_peer_is_gone_the_file_is_fetched(start: Callable[[int], Shard], hub: StubHub, parted: Path) -> None:
    first, second = start(0), start(1)
    peer = first.describe().address
    first.stop(10.0)
    assign(second, LoadOrder(0, 1, (peer, CHECKPOINT)))
    wait_loaded(second)
    assert weights(hub) == {ODD: 1}
    assert second.describe().problem is None


def test_while_another_process_fetches_a_shard_may_be_told_to_load_something_else(
    start: Callable[[int], Shard], hub: StubHub, parted: Path
) -> None:
    first, second = start(0), start(1)
    assign(first, LoadOrder(0, 1))
    wait_loaded(first)
    cache = Cache.of_environment()
    with cache.fetching(Path(fetch.local_model(MODEL)).name):
        assign(second, LoadOrder(0, 0))
        wait_until(lambda: second.describe().fetched is not None, "the shard to wait for the file")
        assign(second, LoadOrder(0, 1, (first.describe().address, CHECKPOINT)))
        wait_loaded(second)
    assert weights(hub) == {ODD: 1}
    assert second.describe().problem is None


def test_shards_of_a_node_share_their_files(start: Callable[[int], Shard], hub: StubHub, parted: Path) -> None:
    shards = start(0), start(1)
    for shard in shards:
        assign(shard, *from_checkpoint(0), *from_checkpoint(5))
    for shard in shards:
        wait_loaded(shard)
        assert_holds(shard, parted, 0, 5)
    assert weights(hub) == {EVEN: 1, ODD: 1}


def test_a_file_that_cannot_be_had_is_named_and_the_others_are_loaded(
    start: Callable[[int], Shard], hub: StubHub, parted: Path
) -> None:
    shard = start(0)
    kept = hub.files.pop(ODD)
    assign(shard, *from_checkpoint(1), *from_checkpoint(2))
    wait_until(lambda: shard.describe().problem is not None, "the shard to say what is missing", 60)
    wait_until(lambda: len(shard.describe().loading.queue) == 4, "what can be had to be loaded", 60)
    problem = shard.describe().problem or ""
    assert f"expert 1 of layer 0 cannot be loaded: huggingFace.repo {REPOSITORY} cannot be fetched" in problem
    assert ODD in problem
    assert_holds(shard, parted, 2)
    hub.files[ODD] = kept
    wait_loaded(shard)
    assert_holds(shard, parted, 1, 2)
    assert shard.describe().problem is None


def test_a_file_of_other_bytes_is_refused_and_asked_for_again(
    start: Callable[[int], Shard], hub: StubHub, parted: Path
) -> None:
    shard = start(0)
    hub.wrong.add(EVEN)
    assign(shard, *from_checkpoint(6))
    wait_loaded(shard)
    assert_holds(shard, parted, 6)
    assert weights(hub) == {EVEN: 2}


def test_how_much_is_there_is_told_while_it_comes(
    start: Callable[[int], Shard], hub: StubHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = start(0)
    told: list[tuple[int, int] | None] = []
    monkeypatch.setattr(shard._open.loader, "_tell", lambda: told.append(shard.describe().fetched))  # type: ignore[union-attr]
    assign(shard, *from_checkpoint(0), *from_checkpoint(1))
    wait_loaded(shard)
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    all_wanted = small + len(hub.files[EVEN]) + len(hub.files[ODD])
    assert [each for each, _ in groupby(told)] == [
        None,
        (small, all_wanted),
        (small + len(hub.files[EVEN]), all_wanted),
        (all_wanted, all_wanted),
        None,
    ], "it does not go and come between two files"
    assert shard.describe().fetched is None


def test_how_much_is_there_is_told_until_nothing_needs_a_file(start: Callable[[int], Shard], hub: StubHub) -> None:
    shard = start(0)
    del hub.files[ODD]
    assign(shard, *from_checkpoint(0), *from_checkpoint(1))
    wait_until(lambda: len(shard.describe().loading.queue) == 4, "what can be had to be loaded", 60)
    for _ in range(20):
        assert shard.describe().fetched is not None, "files are still waited for"
        time.sleep(0.1)
    assign(shard)
    assert shard.describe().fetched is None
    assert OTHERS not in hub.gets


def test_greedy_tokens_are_those_of_the_whole_model(
    start: Callable[[int], Shard], hub: StubHub, checkpoint_of: Callable[[str], Path]
) -> None:
    """Attention and two shards, each with its own files, over sockets."""
    shards = start(0), start(1)
    for shard, first in zip(shards, (0, 1), strict=True):
        assign(shard, *(order for expert in range(first, 8, 2) for order in from_checkpoint(expert)))
        wait_loaded(shard)
    said = [shard.describe() for shard in shards]
    addresses = tuple(ShardAddress(each.index, each.incarnation, each.address) for each in said)
    table = RoutingTable(TableVersion(1, "test"), addresses, np.stack([each.held for each in said], axis=2))
    fabric = SocketFabric(said[0].digest or "", "attention", "node", "auto", MAX_REPLY_BYTES)
    experts = RemoteExperts(4, 8, fabric, "node")
    experts.update(table)
    path, asked = Path(fetch.local_model(MODEL)), prompts(4)
    fetch.bring(MODEL, Checkpoint.open(path).other_files)
    try:
        with running_engine(path, experts=experts) as engine:
            assert complete(engine, asked, greedy(16)) == reference_greedy(checkpoint_of("mixtral"), asked, 16)
    finally:
        experts.close()
    assert weights(hub) == dict.fromkeys(FILES, 1)
