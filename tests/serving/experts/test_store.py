"""The store's bound and the loader that fills it."""

from __future__ import annotations

import threading
from functools import partial

import pytest
import torch
import waiting

from moe_serving.checkpoint.reader import ExpertWeights
from moe_serving.experts import loader as loader_module
from moe_serving.experts.errors import StoreFullError
from moe_serving.experts.loader import ExpertLoader
from moe_serving.experts.store import ExpertStore

WEIGHTS = ExpertWeights(torch.zeros(2, 1), torch.zeros(1, 1), "silu")
wait_until = partial(waiting.wait_until, seconds=10.0)


def store(capacity: int) -> ExpertStore:
    store = ExpertStore(layers=2, experts=3)
    store.capacity = capacity
    return store


def test_a_full_store_takes_no_more_until_something_is_freed() -> None:
    full = store(capacity=2)
    full.add(0, 0, WEIGHTS)
    full.add(1, 2, WEIGHTS)
    with pytest.raises(StoreFullError):
        full.add(0, 1, WEIGHTS)
    full.add(1, 2, WEIGHTS)
    full.remove(0, 0)
    full.add(0, 1, WEIGHTS)
    assert full.held().tolist() == [[False, True, False], [False, False, True]]
    assert full.get(0, 0) is None
    assert full.get(0, 1) is WEIGHTS


def test_freeing_what_is_not_held_is_nothing() -> None:
    empty = store(capacity=1)
    empty.remove(1, 1)
    assert not empty.held().any()


class Reader:
    """Reads when it is let; fails when told to."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.allowed = threading.Semaphore(0)
        self.fault: Exception | None = None
        self.unreadable: set[tuple[int, int]] = set()

    def read(self, layer: int, expert: int) -> ExpertWeights:
        assert self.allowed.acquire(timeout=10)
        if self.fault is not None:
            raise self.fault
        if (layer, expert) in self.unreadable:
            raise OSError("bad block")
        self.reads.append((layer, expert))
        return WEIGHTS


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
def loading(reader: Reader, request: pytest.FixtureRequest) -> tuple[ExpertLoader, ExpertStore]:
    target = store(capacity=3)
    loader = ExpertLoader(reader, target)  # type: ignore[arg-type]  # all that it needs of a reader
    loader.start()

    def stop() -> None:
        reader.allowed.release(100)
        loader.stop(10)

    request.addfinalizer(stop)
    return loader, target


def test_experts_are_loaded_in_order(reader: Reader, loading: tuple[ExpertLoader, ExpertStore]) -> None:
    loader, target = loading
    loader.replace_queue([(1, 1), (0, 0)])
    reader.allowed.release(1)
    wait_until(lambda: loader.queue == ((0, 0),), "the first expert")
    assert target.get(1, 1) is WEIGHTS
    reader.allowed.release(1)
    wait_until(lambda: not loader.queue, "the second expert")
    assert reader.reads == [(1, 1), (0, 0)]


def test_a_newer_queue_replaces_the_rest(reader: Reader, loading: tuple[ExpertLoader, ExpertStore]) -> None:
    loader, target = loading
    loader.replace_queue([(0, 0), (0, 1), (0, 2)])
    loader.replace_queue([(1, 0)])
    reader.allowed.release(2)
    wait_until(lambda: target.get(1, 0) is not None, "the newer queue")
    assert set(reader.reads) <= {(0, 0), (1, 0)}, "what was being read is read to its end, the rest is not"


def test_what_is_held_is_not_read_again(reader: Reader, loading: tuple[ExpertLoader, ExpertStore]) -> None:
    loader, target = loading
    target.add(0, 0, WEIGHTS)
    loader.replace_queue([(0, 0)])
    wait_until(lambda: not loader.queue, "an empty queue")
    assert reader.reads == []


def test_a_failed_read_is_told_and_tried_again(
    reader: Reader, loading: tuple[ExpertLoader, ExpertStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    reader.fault = OSError("stale file handle")
    loader.replace_queue([(0, 2)])
    reader.allowed.release(1)
    wait_until(lambda: loader.problem is not None, "the failure")
    assert loader.problem == "expert 2 of layer 0 cannot be loaded: stale file handle"
    reader.fault = None
    reader.allowed.release(1)
    wait_until(lambda: target.get(0, 2) is not None, "the second try")
    wait_until(lambda: loader.problem is None, "the problem to be forgotten")


def test_an_expert_that_cannot_be_read_lets_the_others_pass(
    reader: Reader, loading: tuple[ExpertLoader, ExpertStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    reader.unreadable = {(0, 0)}
    reader.allowed.release(10_000)
    loader.replace_queue([(0, 0), (0, 1), (1, 1)])
    wait_until(lambda: loader.queue == ((0, 0),), "the others to be loaded")
    wait_until(lambda: loader.problem == "expert 0 of layer 0 cannot be loaded: bad block", "the failure")
    loader.replace_queue([])
    wait_until(lambda: loader.problem is None, "what is not wanted any more to be no problem")
    loader.replace_queue([(0, 0)])
    reader.unreadable = set()
    wait_until(lambda: target.get(0, 0) is not None, "another try")


def test_a_full_store_is_told_and_nothing_is_read(
    reader: Reader, loading: tuple[ExpertLoader, ExpertStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_module, "RETRY_SECONDS", 0.01)
    loader, target = loading
    target.capacity = 0
    loader.replace_queue([(0, 2)])
    wait_until(lambda: "no room" in (loader.problem or ""), "the problem")
    assert reader.reads == []
