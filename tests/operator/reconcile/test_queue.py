"""The queue of keys: never lost, never worked twice at once, one delay per key."""

import asyncio
import random

import pytest

from moe_operator.reconcile.backoff import Backoff
from moe_operator.reconcile.queue import WorkQueue


@pytest.fixture
async def queue():
    queue = WorkQueue()
    yield queue
    queue.close()


async def take(queue: WorkQueue) -> str:
    async with asyncio.timeout(5):
        return await queue.take()


async def is_idle(queue: WorkQueue) -> bool:
    try:
        async with asyncio.timeout(0.05):
            await queue.take()
    except TimeoutError:
        return True
    return False


async def test_a_key_waits_once(queue: WorkQueue) -> None:
    for key in "aabab":
        queue.add(key)
    assert len(queue) == 2
    assert [await take(queue), await take(queue)] == ["a", "b"]
    assert await is_idle(queue)


async def test_a_key_added_while_it_is_worked_is_worked_again_afterwards(queue: WorkQueue) -> None:
    queue.add("a")
    await take(queue)
    queue.add("a")
    queue.add("a")
    assert await is_idle(queue)
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await is_idle(queue)


async def test_delays(queue: WorkQueue) -> None:
    queue.add_after("late", 0.2)
    queue.add_after("early", 0.02)
    assert [await take(queue), await take(queue)] == ["early", "late"]


async def test_the_last_delay_counts_and_an_event_ends_it(queue: WorkQueue) -> None:
    queue.add_after("a", 0.01)
    queue.add_after("a", 60.0)
    assert await is_idle(queue)
    queue.add("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert await is_idle(queue)


async def test_a_delay_does_not_hold_back_a_key_that_waits(queue: WorkQueue) -> None:
    queue.add("a")
    queue.add_after("a", 60.0)
    assert await take(queue) == "a"


async def test_a_dropped_key_does_not_come_back(queue: WorkQueue) -> None:
    queue.add_after("a", 0.01)
    queue.drop("a")
    assert await is_idle(queue)


async def test_workers_share_and_never_overlap_on_a_key(queue: WorkQueue) -> None:
    rng = random.Random(7)
    working: set[str] = set()
    worked: dict[str, int] = {}

    async def work() -> None:
        while True:
            key = await queue.take()
            assert key not in working
            working.add(key)
            await asyncio.sleep(rng.random() * 0.002)
            worked[key] = worked.get(key, 0) + 1
            working.discard(key)
            queue.done(key)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for _ in range(300):
        queue.add(rng.choice("abcde"))
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        while len(queue) or working:
            assert not any(worker.done() for worker in workers)
            await asyncio.sleep(0.01)
    for worker in workers:
        worker.cancel()
    assert worked.keys() == set("abcde")


def test_backoff_doubles_to_its_cap_and_starts_anew() -> None:
    backoff = Backoff(first=1.0, cap=10.0, jitter=0.0)
    assert [backoff.next_delay("a") for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]
    assert backoff.next_delay("b") == 1.0
    backoff.forget("a")
    assert backoff.next_delay("a") == 1.0


def test_backoff_spreads_but_never_exceeds() -> None:
    backoff = Backoff(first=1.0, cap=10.0, jitter=0.3, rng=random.Random(1))
    delays = [backoff.next_delay(str(key)) for key in range(200)]
    assert all(0.7 <= delay <= 1.0 for delay in delays)
    assert len(set(delays)) == 200
    assert all(backoff.next_delay("a") <= 10.0 for _ in range(5000))


async def test_of_slow_keys_only_some_are_worked_at_a_time() -> None:
    queue = WorkQueue(slow_at_a_time=1)
    for key in ("slow-1", "slow-2"):
        queue.mark(key, True)
    for key in ("slow-1", "slow-2", "a", "b"):
        queue.add(key)
    assert len(queue) == 4
    assert [await take(queue), await take(queue), await take(queue)] == ["slow-1", "a", "b"]
    assert await is_idle(queue)
    waiting = asyncio.create_task(take(queue))
    await asyncio.sleep(0)
    queue.done("slow-1")
    assert await waiting == "slow-2"
    # Not slow any more: that makes room, too.
    queue.add("slow-1")
    queue.mark("slow-2", False)
    assert await take(queue) == "slow-1"


async def test_no_namespace_takes_all_workers_and_each_comes_in_its_turn() -> None:
    queue = WorkQueue(slow_at_a_time=4, workers=8)
    for number in range(40):
        queue.add(f"much/{number}")
    assert [await take(queue) for _ in range(6)] == [f"much/{number}" for number in range(6)]
    assert await is_idle(queue)
    queue.add("little/1")
    queue.add("little/2")
    assert [await take(queue), await take(queue)] == ["little/1", "little/2"]
    assert queue.busy() == {("much", False): 6, ("little", False): 2}
    for key in ("much/0", "little/1", "little/2"):
        queue.done(key)
    queue.add("little/3")
    assert [await take(queue), await take(queue)] == ["much/6", "little/3"]


async def test_the_slow_keys_of_one_namespace_leave_room_for_those_of_others() -> None:
    queue = WorkQueue(slow_at_a_time=4, workers=8)
    for key in [f"much/{number}" for number in range(40)] + ["little/1", "little/2"]:
        queue.mark(key, True)
        queue.add(key)
    taken = [await take(queue) for _ in range(4)]
    assert taken == ["much/0", "little/1", "much/1", "little/2"]
    assert await is_idle(queue)
    queue.done("little/1")
    assert await take(queue) == "much/2"
    queue.done("little/2")
    assert await is_idle(queue)
    assert queue.busy() == {("much", True): 3}


async def test_neither_kind_of_key_starves_the_other() -> None:
    queue = WorkQueue(slow_at_a_time=1)
    queue.mark("slow", True)
    taken = []
    for key in ("slow", "a"):
        queue.add(key)
    for _ in range(6):
        taken.append(await take(queue))
        queue.done(taken[-1])
        queue.add(taken[-1])
    assert taken == ["slow", "a"] * 3


def test_a_longer_cap_for_some() -> None:
    backoff = Backoff(first=1.0, cap=4.0, jitter=0.0)
    assert [backoff.next_delay("a", cap) for cap in (None, None, None, None, 60.0, None)] == [1, 2, 4, 4, 16, 4]
