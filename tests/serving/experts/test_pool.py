"""The pool's slots: seen once they are whole, never overwritten while they are read, not more than there may be."""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from waiting import wait_until

from moe_serving.checkpoint.reader import ExpertForm, digest_of
from moe_serving.experts import pool as pool_module
from moe_serving.experts import slab
from moe_serving.experts.errors import DamagedExpertError, PoolFullError
from moe_serving.experts.pool import ExpertPool

LAYERS, EXPERTS = 2, 6
CPU = torch.device("cpu")


def pool(capacity: int, dtype: torch.dtype = torch.float32, hidden: int = 8) -> ExpertPool:
    made = ExpertPool(LAYERS, EXPERTS, ExpertForm(hidden, 5, dtype, "silu"), CPU)
    made.capacity = capacity
    return made


def fill(target: ExpertPool, layer: int, expert: int, value: float = 1.0) -> None:
    with target.reserve(layer, expert) as slot:
        slot.weights.gate_up.fill_(value)
        slot.weights.down.fill_(value)
        slot.publish()


def numbers(target: ExpertPool) -> dict[tuple[int, int], int]:
    """The slot of each expert held."""
    found = {}
    for layer in range(LAYERS):
        with target.pinned(layer, range(EXPERTS)) as slots:
            found |= {(layer, expert): slot.number for expert, slot in slots.items()}
    return found


def test_what_is_being_filled_is_held_by_nobody() -> None:
    one = pool(capacity=2)
    with one.reserve(1, 3) as slot:
        slot.weights.down.fill_(7.0)
        assert not one.held().any()
        assert (1, 3) not in one
        with pytest.raises(ValueError, match="expert 3 of layer 1 is held already, or being filled"):
            one.reserve(1, 3)
        slot.publish()
    assert [tuple(key) for key in torch.from_numpy(one.held()).nonzero().tolist()] == [(1, 3)]
    with one.pinned(1, [2, 3]) as slots:
        assert list(slots) == [3]
        assert (slots[3].weights.down == 7.0).all()
        assert slots[3].digest == digest_of(slots[3].weights)


def test_what_was_not_published_is_given_up() -> None:
    one = pool(capacity=1)
    with pytest.raises(OSError, match="bad block"), one.reserve(0, 0):
        raise OSError("bad block")
    assert not one.held().any()
    fill(one, 0, 0)
    assert one.held().sum() == 1


def test_a_full_pool_takes_no_more_until_something_is_freed() -> None:
    full = pool(capacity=2)
    fill(full, 0, 0)
    with full.reserve(1, 2) as slot:
        with pytest.raises(PoolFullError, match="2 experts are held"):
            full.reserve(0, 1)
        slot.publish()
    with pytest.raises(PoolFullError):
        full.reserve(0, 1)
    full.free(0, 0)
    full.free(0, 5)  # which it never held
    fill(full, 0, 1)
    assert sorted(numbers(full)) == [(0, 1), (1, 2)]


def test_it_grows_and_shrinks_without_moving_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab, "MOST_SLOTS", 2)
    one = pool(capacity=3)
    for expert in range(3):
        fill(one, 0, expert)
    with one.pinned(0, range(3)) as slots:
        before = {expert: slot.weights.down.data_ptr() for expert, slot in slots.items()}
    one.capacity = 5
    fill(one, 1, 0)
    fill(one, 1, 1)
    one.capacity = 1
    with one.pinned(0, range(3)) as slots:
        assert {expert: slot.weights.down.data_ptr() for expert, slot in slots.items()} == before
    with pytest.raises(PoolFullError, match="1 experts are held"):
        one.reserve(1, 2)
    for key in [(0, 0), (0, 1), (0, 2), (1, 0)]:
        one.free(*key)
    assert list(numbers(one)) == [(1, 1)]
    one.free(1, 1)
    fill(one, 1, 2)
    assert list(numbers(one)) == [(1, 2)]


def test_slots_with_low_numbers_are_filled_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab, "MOST_SLOTS", 4)
    one = pool(capacity=8)
    for expert in range(6):
        fill(one, 0, expert)
    assert numbers(one) == {(0, expert): expert for expert in range(6)}
    one.free(0, 2)
    one.free(0, 1)
    fill(one, 1, 0)
    fill(one, 1, 1)
    assert numbers(one)[1, 0] == 1
    assert numbers(one)[1, 1] == 2


def resident(tensor: torch.Tensor) -> int:
    """Bytes of a tensor's pages that are in memory; see mincore(2)."""
    begin, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    assert begin % mmap.PAGESIZE == 0
    pages = (ctypes.c_ubyte * -(-(end - begin) // mmap.PAGESIZE))()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mincore(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), pages) == 0, ctypes.get_errno()
    return sum(page & 1 for page in pages) * mmap.PAGESIZE


def test_memory_is_taken_as_it_is_written_and_given_back_when_it_is_freed() -> None:
    large = pool(capacity=3, hidden=1 << 12)
    for expert in range(2):
        fill(large, 0, expert)
    with large.reserve(0, 2) as third:
        places = [third.weights]
        assert resident(third.weights.gate_up) == 0
    with large.pinned(0, [0, 1]) as slots:
        places += [slots[expert].weights for expert in range(2)]
    large.free(0, 0)
    assert [[resident(each.gate_up), resident(each.down)] for each in places] == [
        [0, 0],
        [0, 0],
        [each.nbytes for each in (places[2].gate_up, places[2].down)],
    ]
    with large.pinned(0, [1]) as slots:
        assert (slots[1].weights.gate_up == 1.0).all(), "a neighbour of what was given back"
    fill(large, 1, 0)
    assert resident(places[1].down) == places[1].down.nbytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_a_digest_tells_a_single_bit(dtype: torch.dtype) -> None:
    one = pool(capacity=2, dtype=dtype)
    fill(one, 0, 0)
    with one.pinned(0, [0]) as slots:
        good = slots[0].digest
        for damaged in (slots[0].weights.gate_up, slots[0].weights.down):
            bits = damaged.view(torch.uint8)
            bits[-1, -1] ^= 1
            assert digest_of(slots[0].weights) != good
            bits[-1, -1] ^= 1
    one.free(0, 0)
    with pytest.raises(DamagedExpertError, match="expert 1 of layer 0 is damaged"), one.reserve(0, 1) as slot:
        slot.publish(expected=good)
    assert not one.held().any()
    fill(one, 0, 1)


def test_a_slot_that_is_read_is_not_filled_anew() -> None:
    one = pool(capacity=1)
    fill(one, 0, 0, value=3.0)
    begun, written = threading.Event(), threading.Event()

    def replace() -> None:
        one.free(0, 0)
        begun.set()
        fill(one, 0, 1, value=4.0)
        written.set()

    with ThreadPoolExecutor(1) as other, one.pinned(0, [0]) as slots:
        done = other.submit(replace)
        assert begun.wait(10)
        with one.pinned(0, [0, 1]) as found:
            assert not found, "what is freed is found by nobody, and what is to come is not there yet"
        assert not written.wait(0.2)
        assert (slots[0].weights.down == 3.0).all()
        assert (slots[0].weights.gate_up == 3.0).all()
    done.result(10)
    assert list(numbers(one)) == [(0, 1)]


def test_a_slot_that_is_read_for_ever_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "UNPIN_SECONDS", 0.05)
    one = pool(capacity=1)
    fill(one, 0, 0)
    with one.pinned(0, [0]), one.pinned(0, [0]):
        one.free(0, 0)
        with pytest.raises(PoolFullError, match="what was freed is still read"):
            one.reserve(0, 1)
    fill(one, 0, 1)


def test_readers_beside_a_writer_never_see_two_experts_in_one_slot() -> None:
    """Three slots, and experts that come and go in them as fast as they can; each is all of one number, its own."""
    one = pool(capacity=3)
    end = time.monotonic() + 1.0
    seen: set[int] = set()

    def read() -> None:
        while time.monotonic() < end:
            with one.pinned(0, range(EXPERTS)) as slots:
                for expert, slot in slots.items():
                    for _ in range(2):
                        values = {*slot.weights.gate_up.unique().tolist(), *slot.weights.down.unique().tolist()}
                        assert values == {float(expert + 1)}
                    seen.add(expert)

    def write() -> None:
        expert = 0
        while time.monotonic() < end:
            one.free(0, (expert - 2) % EXPERTS)
            fill(one, 0, expert, value=float(expert + 1))
            expert = (expert + 1) % EXPERTS

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(write), *(threads.submit(read) for _ in range(3))]:
            done.result(30)
    assert seen == set(range(EXPERTS))
    wait_until(lambda: len(numbers(one)) <= 2, "the readers to have gone")
