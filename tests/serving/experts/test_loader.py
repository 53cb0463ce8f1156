"""The loader: in which order it fills a pool, and what becomes of an expert that cannot be read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import waiting

from moe_serving.checkpoint.reader import ExpertForm, ExpertWeights, digest_of
from moe_serving.experts import loader as loader_module
from moe_serving.experts.description import CHECKPOINT, Loading, LoadOrder
from moe_serving.experts.errors import DamagedExpertError, NotHeldError, PeerRestsError
from moe_serving.experts.files import ExpertFiles
from moe_serving.experts.loader import ExpertLoader
from moe_serving.experts.pool import ExpertPool
from moe_serving.wire.endpoint import Address
from moe_serving.wire.errors import ConnectionLostError, ProtocolError

FORM = ExpertForm(hidden=4, intermediate=3, dtype=torch.float32, activation="silu")
wait_until = partial(waiting.wait_until, seconds=10.0)


class Peers:
    """Other shards by address; the expert that one sends is all of one number."""

    def __init__(self) -> None:
        self.asked: list[Address] = []
        self.doubted: list[tuple[Address, int, int]] = []
        self.deaf: Exception | None = None
        self.faults: dict[Address, Exception] = {}
        self.closed = 0
        self.pieces: list[int] = []

    def fetch_into(
        self, weights: ExpertWeights, peer: Address, layer: int, expert: int, proceed: Callable[[int], None]
    ) -> tuple[bytes, bytes]:
        self.asked.append(peer)
        for size in self.pieces:
            proceed(size)
        weights.gate_up.fill_(2.0)
        weights.down.fill_(2.0)
        fault = self.faults.get(peer)
        if isinstance(fault, DamagedExpertError):
            return digest_of(weights), b"another one"
        if fault is not None:
            raise fault
        return digest_of(weights), digest_of(weights)

    def doubt(self, peer: Address, layer: int, expert: int, proceed: Callable[[int], None]) -> None:
        self.doubted.append((peer, layer, expert))
        proceed(0)
        if self.deaf is not None:
            raise self.deaf

    def close(self) -> None:
        self.closed += 1


ALL_THERE = ExpertFiles(SimpleNamespace(files=()), lambda *_: None)  # type: ignore[arg-type]
"""Nothing has to be fetched."""
NEAR, FAR = Address("node", b"", unix_name="near"), Address("other", b"", unix_name="far")


def orders(*keys: tuple[int, int]) -> list[LoadOrder]:
    return [LoadOrder(*key) for key in keys]


class Reader:
    """Reads when it is let; fails when told to."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.allowed = threading.Semaphore(0)
        self.fault: Exception | None = None
        self.unreadable: set[tuple[int, int]] = set()

    def read_into(self, weights: ExpertWeights, layer: int, expert: int) -> bytes:
        assert self.allowed.acquire(timeout=10)
        if self.fault is not None:
            raise self.fault
        if (layer, expert) in self.unreadable:
            raise OSError("bad block")
        self.reads.append((layer, expert))
        weights.gate_up.fill_(1.0)
        weights.down.fill_(1.0)
        return digest_of(weights)


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def peers() -> Peers:
    return Peers()


@pytest.fixture
def loading(reader: Reader, peers: Peers, request: pytest.FixtureRequest) -> tuple[ExpertLoader, ExpertPool]:
    target = ExpertPool(2, 3, FORM, torch.device("cpu"))
    target.capacity = 3
    loader = ExpertLoader(reader, target, peers, ALL_THERE)  # type: ignore[arg-type]  # all that it needs of them
    loader.start()

    def stop() -> None:
        reader.allowed.release(100)
        loader.stop(10)

    request.addfinalizer(stop)
    return loader, target


def test_experts_are_loaded_in_order(reader: Reader, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    loader, target = loading
    loader.replace_queue(orders((1, 1), (0, 0)))
    reader.allowed.release(1)
    wait_until(lambda: loader.loading.queue == ((0, 0),), "the first expert")
    assert (1, 1) in target
    reader.allowed.release(1)
    wait_until(lambda: not loader.loading.queue, "the second expert")
    assert reader.reads == [(1, 1), (0, 0)]


def test_a_newer_queue_replaces_the_rest(reader: Reader, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    loader, target = loading
    loader.replace_queue(orders((0, 0), (0, 1), (0, 2)))
    loader.replace_queue(orders((1, 0)))
    reader.allowed.release(2)
    wait_until(lambda: (1, 0) in target, "the newer queue")
    assert set(reader.reads) <= {(0, 0), (1, 0)}, "what was being read is read to its end, the rest is not"


def test_what_is_on_its_way_is_told_first_and_what_failed_is_not(
    reader: Reader, loading: tuple[ExpertLoader, ExpertPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, _ = loading
    reader.unreadable = {(0, 0)}
    loader.replace_queue(orders((0, 0), (0, 1), (0, 2)))
    assert loader.loading.queue == ((0, 0), (0, 1), (0, 2))
    reader.allowed.release(1)
    wait_until(lambda: loader.loading.queue[0] == (0, 1), "the next one to be on its way")
    assert loader.loading.queue == ((0, 1), (0, 0), (0, 2))
    assert loader.loading.begun
    loader.replace_queue(())
    assert not loader.loading.begun


class Layer(int):
    """A layer's number; ``looked_up`` is called, in the main thread, where something is looked up by it."""

    looked_up: Callable[[], object] | None = None

    def __hash__(self) -> int:
        if self.looked_up is not None and threading.current_thread() is threading.main_thread():
            self.looked_up()
        return super().__hash__()


def test_what_is_told_is_of_one_moment(reader: Reader, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    """Also where what is on its way arrives meanwhile."""
    loader, target = loading
    loader.replace_queue([LoadOrder(layer := Layer(0), 0)])
    wait_until(lambda: loader.loading.begun, "it to be on its way")

    def arrives() -> None:
        layer.looked_up = None
        reader.allowed.release(1)
        wait_until(lambda: (0, 0) in target, "the expert")
        time.sleep(0.1)  # by then it would be on its way no more, and still in the queue

    layer.looked_up = arrives
    assert loader.loading == Loading(((0, 0),), begun=True)
    assert reader.reads == [(0, 0)]


def test_that_something_is_on_its_way_is_told(reader: Reader, peers: Peers) -> None:
    """Whoever waits for news hears of it."""
    told: list[Loading] = []
    target = ExpertPool(2, 3, FORM, torch.device("cpu"))
    target.capacity = 3
    loader = ExpertLoader(reader, target, peers, ALL_THERE, lambda: told.append(loader.loading))  # type: ignore[arg-type]
    loader.replace_queue(orders((0, 0), (0, 1)))
    assert told == [Loading(((0, 0), (0, 1)))]
    loader.start()
    try:
        wait_until(lambda: told[1:], "the first one to be told of")
        assert told[1] == Loading(((0, 0), (0, 1)), begun=True)
    finally:
        reader.allowed.release(100)
        loader.stop(10)


def test_what_is_held_is_not_read_again(reader: Reader, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    loader, target = loading
    with target.reserve(0, 0) as slot:
        slot.publish()
    loader.replace_queue(orders((0, 0)))
    wait_until(lambda: not loader.loading.queue, "an empty queue")
    assert reader.reads == []


def test_a_failed_read_is_told_and_tried_again(
    reader: Reader, loading: tuple[ExpertLoader, ExpertPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    reader.fault = OSError("stale file handle")
    loader.replace_queue(orders((0, 2)))
    reader.allowed.release(1)
    wait_until(lambda: loader.problem is not None, "the failure")
    assert loader.problem == "expert 2 of layer 0 cannot be loaded: stale file handle"
    reader.fault = None
    reader.allowed.release(1)
    wait_until(lambda: (0, 2) in target, "the second try")
    wait_until(lambda: loader.problem is None, "the problem to be forgotten")


def test_an_expert_that_cannot_be_read_lets_the_others_pass(
    reader: Reader, loading: tuple[ExpertLoader, ExpertPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    reader.unreadable = {(0, 0)}
    reader.allowed.release(10_000)
    loader.replace_queue(orders((0, 0), (0, 1), (1, 1)))
    wait_until(lambda: loader.loading.queue == ((0, 0),), "the others to be loaded")
    wait_until(lambda: loader.problem == "expert 0 of layer 0 cannot be loaded: bad block", "the failure")
    loader.replace_queue([])
    wait_until(lambda: loader.problem is None, "what is not wanted any more to be no problem")
    loader.replace_queue(orders((0, 0)))
    reader.unreadable = set()
    wait_until(lambda: (0, 0) in target, "another try")


def test_a_full_pool_is_told_and_nothing_is_read(
    reader: Reader, loading: tuple[ExpertLoader, ExpertPool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    target.capacity = 0
    loader.replace_queue(orders((0, 2)))
    wait_until(lambda: "no room" in (loader.problem or ""), "the problem")
    assert reader.reads == []


def value_of(pool: ExpertPool, layer: int, expert: int) -> float:
    with pool.pinned(layer, [expert]) as slots:
        (value,) = slots[expert].weights.down.unique().tolist()
        return float(value)


def test_the_nearest_source_is_asked_and_nobody_else(
    reader: Reader, peers: Peers, loading: tuple[ExpertLoader, ExpertPool]
) -> None:
    loader, target = loading
    loader.replace_queue([LoadOrder(0, 0, (NEAR, FAR, CHECKPOINT))])
    wait_until(lambda: not loader.loading.queue, "the expert")
    assert (peers.asked, reader.reads, value_of(target, 0, 0)) == ([NEAR], [], 2.0)
    assert loader.counts == {"from_peers": FORM.nbytes}
    wait_until(lambda: peers.closed > 0, "idle connections to be closed")


@pytest.mark.parametrize(
    ("fault", "refused", "told"),
    [
        (ConnectionLostError("reset by peer"), 0, None),
        (NotHeldError("the peer does not hold it"), 0, None),
        (PeerRestsError("the peer has just failed"), 0, None),
        (RuntimeError("nobody foresaw this"), 0, None),
        (DamagedExpertError(""), 1, "expert 1 of layer 1 is damaged: its bytes do not fit its digest"),
        (ProtocolError("no PIECE"), 1, "no PIECE"),
    ],
)
def test_who_cannot_give_it_is_passed_over(
    reader: Reader,
    peers: Peers,
    loading: tuple[ExpertLoader, ExpertPool],
    fault: Exception,
    refused: int,
    told: str | None,
) -> None:
    loader, target = loading
    peers.faults = {NEAR: fault, FAR: fault}
    peers.deaf = ConnectionLostError("reset by peer")
    loader.replace_queue([LoadOrder(1, 1, (NEAR, FAR, CHECKPOINT))])
    if told:
        wait_until(lambda: (loader.problem or "").endswith(told), "the problem")
    assert (1, 1) not in target, "what a peer sent last is in its slot, and held by nobody"
    reader.allowed.release(1)
    wait_until(lambda: not loader.loading.queue, "the expert")
    assert (peers.asked, reader.reads, value_of(target, 1, 1)) == ([NEAR, FAR], [(1, 1)], 1.0)
    assert loader.counts["refused"] == 2 * refused
    assert peers.doubted == ([(NEAR, 1, 1), (FAR, 1, 1)] if isinstance(fault, DamagedExpertError) else [])
    assert loader.counts["from_checkpoint"] == FORM.nbytes
    assert loader.counts["from_peers"] == 0
    assert loader.problem is None


def test_a_checkpoint_that_fails_lets_peers_behind_it_try(
    reader: Reader, peers: Peers, loading: tuple[ExpertLoader, ExpertPool]
) -> None:
    loader, target = loading
    reader.fault = OSError("stale file handle")
    reader.allowed.release(1)
    loader.replace_queue([LoadOrder(0, 2, (CHECKPOINT, FAR))])
    wait_until(lambda: not loader.loading.queue, "the expert")
    assert value_of(target, 0, 2) == 2.0


def test_what_is_wanted_no_more_is_given_up_on_its_way(peers: Peers, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    loader, target = loading
    loader.set_rate(1)
    peers.pieces = [1000, 1000]
    loader.replace_queue([LoadOrder(0, 0, (NEAR, CHECKPOINT))])
    wait_until(lambda: peers.asked == [NEAR], "the transfer")
    peers.pieces = []
    loader.replace_queue([LoadOrder(0, 1, (NEAR, CHECKPOINT), urgent=True)])
    wait_until(lambda: not loader.loading.queue, "the other expert")
    assert (target.held().sum(), peers.asked) == (1, [NEAR, NEAR])


def test_another_rate_holds_at_once(peers: Peers, loading: tuple[ExpertLoader, ExpertPool]) -> None:
    """What waits for its turn at the old one, which may be an hour off, does not wait for it."""
    loader, target = loading
    loader.set_rate(1)
    peers.pieces = [1000, 1000]
    loader.replace_queue([LoadOrder(0, 0, (NEAR, CHECKPOINT))])
    wait_until(lambda: peers.asked == [NEAR], "the transfer")
    loader.set_rate(1)
    assert (0, 0) not in target
    loader.set_rate(1_000_000)
    wait_until(lambda: not loader.loading.queue, "the expert")
    assert (0, 0) in target


def test_something_urgent_does_not_wait_behind_a_slow_transfer(
    peers: Peers, loading: tuple[ExpertLoader, ExpertPool]
) -> None:
    loader, target = loading
    loader.set_rate(1)
    peers.pieces = [1000, 1000]
    slow = LoadOrder(0, 0, (NEAR, CHECKPOINT))
    loader.replace_queue([slow])
    wait_until(lambda: peers.asked == [NEAR], "the transfer")
    loader.replace_queue([LoadOrder(0, 1, (NEAR, CHECKPOINT), urgent=True), slow])
    wait_until(lambda: not loader.loading.queue, "both")
    assert target.held().sum() == 2
    assert peers.asked == [NEAR, NEAR], "what was on its way has come to its end"


def test_an_order_names_the_checkpoint() -> None:
    with pytest.raises(ValueError, match="but not from the checkpoint"):
        LoadOrder(0, 1, (NEAR,))
