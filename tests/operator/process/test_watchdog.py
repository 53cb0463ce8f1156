"""What the event loop cannot end, a thread does: judged with a clock of the test's, and for real in processes."""

import subprocess
import sys
import time

import pytest

from moe_operator.process.watchdog import END_SECONDS, LOOP_SECONDS, Watchdog


class Bench:
    def __init__(self) -> None:
        self.now = 1000.0
        self.codes: list[int] = []
        self.dog = Watchdog(self.codes.append, lambda: self.now)

    def after(self, seconds: float) -> list[int]:
        self.now += seconds
        self.dog.judge()
        return self.codes


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_loop_that_lives_is_left_alone(bench: Bench) -> None:
    for _ in range(10):
        assert bench.after(LOOP_SECONDS - 1) == []
        bench.dog.loop_lives()


def test_a_loop_that_is_blocked_ends_the_process(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    assert bench.after(LOOP_SECONDS + 1) == [1]
    assert "the event loop gave no sign of life for 56 s: ended with code 1" in capfd.readouterr().err


def test_a_lease_that_has_run_out_ends_the_process(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    bench.dog.guard_lease(lambda: bench.now >= 1015)
    assert bench.after(14) == []
    assert bench.after(1) == [4]
    assert "the Lease has run out" in capfd.readouterr().err


def test_an_end_that_takes_too_long_is_cut_short(bench: Bench) -> None:
    bench.dog.ending()
    assert bench.after(END_SECONDS - 1) == []
    bench.dog.ending()
    assert bench.after(2) == [1]


BLOCKED = """
import asyncio, sys, time
from moe_operator.kube.errors import NotFoundError
from moe_operator.leader import Elector, LeaseSettings
from moe_operator.process.watchdog import Watchdog

class Server:
    async def get(self, *_): raise NotFoundError("no", 404)
    async def create(self, resource, body): return {**body, "metadata": {**body["metadata"], "resourceVersion": "1"}}

async def main():
    dog = Watchdog()
    dog.start()
    times = {"duration": 3, "renew_deadline": 1.5, "retry_period": 0.3, "request_timeout": 1.0}
    elector = Elector(Server(), LeaseSettings("n", "l", "a", **times))
    await elector.acquire()
    dog.guard_lease(elector.overstayed)
    print("leader", flush=True)
    BLOCK

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    ["time.sleep(600)", "await asyncio.to_thread(time.sleep, 600)"],
    ids=["the loop is blocked", "a thread hangs"],
)
def test_a_leader_that_cannot_end_itself_is_gone_when_others_may_lead(block: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", BLOCKED.replace("BLOCK", block)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"leader\n"
        started = time.monotonic()
        _, said = process.communicate(timeout=30)
        assert process.returncode == 4
        assert b"the Lease has run out and the process had not ended by itself: ended with code 4" in said
        assert time.monotonic() - started > 1
    finally:
        process.kill()
        process.wait(10)


HANGS_AT_EXIT = """
import asyncio, time
from moe_operator.process import watchdog

watchdog.END_SECONDS = 1.0

async def main():
    dog = watchdog.Watchdog()
    dog.start()
    asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
    await asyncio.sleep(0.1)
    dog.ending()

asyncio.run(main())
"""


@pytest.mark.slow
def test_threads_that_hang_do_not_keep_the_process() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS_AT_EXIT], capture_output=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert b"did not end within 1 s" in ended.stderr
