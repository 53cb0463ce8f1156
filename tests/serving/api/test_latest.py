"""One answer for many who ask at once."""

import asyncio
import time

import pytest

from moe_serving.api.latest import Latest


class Counted:
    """A fetch that waits for ``opened`` and returns how often it began."""

    def __init__(self) -> None:
        self.begun = 0
        self.opened = asyncio.Event()

    async def __call__(self) -> int:
        self.begun += 1
        mine = self.begun
        await self.opened.wait()
        return mine


async def test_whoever_asks_gets_a_run_that_began_later(eventually) -> None:
    fetch = Counted()
    latest = Latest(fetch, 0.0)
    first = asyncio.create_task(latest.get())
    await eventually(lambda: fetch.begun, "the first run")
    later = [asyncio.create_task(latest.get()) for _ in range(20)]
    await asyncio.sleep(0.01)
    assert fetch.begun == 1
    fetch.opened.set()
    assert [await first, *[await each for each in later]] == [1, *[2] * 20]


async def test_one_that_no_longer_waits_does_not_end_it_for_the_others() -> None:
    fetch = Counted()
    latest = Latest(fetch, 0.0)
    impatient, patient = asyncio.create_task(latest.get()), asyncio.create_task(latest.get())
    await asyncio.sleep(0.01)
    impatient.cancel()
    await asyncio.sleep(0)
    fetch.opened.set()
    assert await patient == 1


async def test_a_failure_is_everybodys_and_the_next_one_tries_again() -> None:
    failures = [ConnectionError("away")]

    async def fetch() -> str:
        if failures:
            raise failures.pop()
        return "back"

    latest = Latest(fetch, 0.0)
    with pytest.raises(ConnectionError, match="away"):
        await latest.get()
    assert await latest.get() == "back"


async def test_there_is_a_pause_between_two() -> None:
    fetch = Counted()
    fetch.opened.set()
    latest = Latest(fetch, 0.05)
    begun = time.monotonic()
    for _ in range(3):
        await latest.get()
    assert time.monotonic() - begun >= 0.1
