"""The worker process: what its jobs may take, and that whatever they do to it the next one finds it working."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import offload_jobs as jobs
import psutil
import pytest
from gathered_traffic import Gathered, domains, question

from moe_contract.serve.state import read_state
from moe_operator.offload import process as module
from moe_operator.offload.child import NICENESS
from moe_operator.offload.errors import JobDelayedError, JobLostError, JobTooHeavyError
from moe_operator.offload.process import PLANNING_CHILD, Bounds, WorkerProcess
from moe_operator.rebalance.proposal import propose
from moe_operator.rebalance.recent import Mark

COMMAND = (jobs.__file__,)
BOUNDS = Bounds(processor_seconds=5.0, seconds=60.0)
MEMORY = 64 * 2**20


@pytest.fixture
async def worker() -> AsyncIterator[WorkerProcess]:
    async with WorkerProcess(MEMORY, COMMAND) as made:
        yield made


async def run(worker: WorkerProcess, job: Any, *arguments: Any, bounds: Bounds = BOUNDS, owner: str = "me") -> Any:
    return await worker.run(owner, bounds, job, *arguments)


def gone(pid: int, seconds: float = 10.0) -> bool:
    """Whether the process ends in time."""
    until = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


async def test_a_job_is_computed_in_a_process_of_its_own_that_gives_way(worker: WorkerProcess) -> None:
    assert worker.pid is None
    assert await run(worker, jobs.double, 21) == 42
    pid = worker.pid
    assert await run(worker, jobs.say, "to standard error") == pid != os.getpid()
    assert await run(worker, jobs.priority) == min(19, os.nice(0) + NICENESS)
    assert len(await run(worker, jobs.much, 5)) == 5 * 2**20
    assert worker.pid == pid


async def test_the_operators_own_jobs_are_known_there() -> None:
    async with WorkerProcess() as worker:
        state = await run(worker, read_state, b'{"applications": {"a": {"status": "RUNNING"}}}')
        assert state == read_state(b'{"applications": {"a": {"status": "RUNNING"}}}')
        with pytest.raises(ValueError, match="an HTML page"):
            await run(worker, read_state, b" <html>")
        with pytest.raises(KeyError):
            await run(worker, os.getcwd)


async def test_what_a_job_raises_is_raised_here(worker: WorkerProcess) -> None:
    with pytest.raises(ValueError, match="salt is refused") as caught:
        await run(worker, jobs.refuse, "salt")
    assert "in refuse" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="OddError: 1 is not 2"):
        await run(worker, jobs.refuse_oddly)
    with pytest.raises(RecursionError):
        await run(worker, jobs.recurse)
    assert await run(worker, jobs.double, 1) == 2


@pytest.mark.alone
@pytest.mark.parametrize(
    ("job", "argument", "bounds", "error", "says"),
    [
        (jobs.spin, 60.0, Bounds(1.0, 55.0), JobTooHeavyError, "took more than 1 s"),
        (jobs.nap, 60.0, Bounds(1.0, 6.0), JobTooHeavyError, "was not done within 6 s"),
        (jobs.fill, 80, BOUNDS, JobTooHeavyError, "took more than 64 MiB of memory"),
        (jobs.die, signal.SIGKILL, BOUNDS, JobLostError, "ended with -9"),
        (jobs.die, signal.SIGSEGV, BOUNDS, JobLostError, "ended with -11"),
        (jobs.much, 25, BOUNDS, JobLostError, "a reply of"),
    ],
)
async def test_a_job_that_breaks_it_is_told_of_and_the_next_finds_a_working_process(
    worker: WorkerProcess, job: Any, argument: Any, bounds: Bounds, error: type[Exception], says: str
) -> None:
    assert await run(worker, jobs.double, 1) == 2
    before = worker.pid
    broken = asyncio.create_task(run(worker, job, argument, bounds=bounds))
    following = asyncio.create_task(run(worker, jobs.double, 4, owner="another"))
    with pytest.raises(error, match=says):
        await broken
    assert await following == 8
    assert worker.pid != before
    assert gone(before)


async def test_what_began_late_is_late_and_not_too_heavy(worker: WorkerProcess) -> None:
    await run(worker, jobs.double, 1)
    before = asyncio.create_task(run(worker, jobs.nap, 1.0, owner="another"))
    with pytest.raises(JobDelayedError, match="was busy for 3 s"):
        await run(worker, jobs.nap, 60.0, bounds=Bounds(30.0, 3.0))
    await before


async def test_nobody_waits_for_more_than_one_job_of_each_other_owner(worker: WorkerProcess) -> None:
    await run(worker, jobs.double, 1)
    order: list[str] = []

    async def note(name: str, seconds: float) -> None:
        await run(worker, jobs.nap, seconds, owner=name[0])
        order.append(name)

    many = [asyncio.create_task(note(f"a{number}", 0.1)) for number in range(5)]
    await asyncio.sleep(0)
    little = asyncio.create_task(note("b", 0.0))
    await asyncio.gather(*many, little)
    assert order.index("b") <= 2


async def test_who_got_no_turn_is_not_called_too_heavy(worker: WorkerProcess) -> None:
    first = asyncio.create_task(run(worker, jobs.nap, 1.0))
    await asyncio.sleep(0.1)
    with pytest.raises(JobDelayedError, match="was busy for 0 s"):
        await run(worker, jobs.double, 4, bounds=Bounds(5.0, 0.3), owner="another")
    assert await first == "rested"


async def test_a_job_that_nobody_waits_for_any_more_is_not_begun(worker: WorkerProcess) -> None:
    first = asyncio.create_task(run(worker, jobs.nap, 0.5))
    given_up = asyncio.create_task(run(worker, jobs.die, signal.SIGKILL))
    await asyncio.sleep(0.1)
    given_up.cancel()
    assert await first == "rested"
    pid = worker.pid
    assert await run(worker, jobs.double, 2) == 4
    assert worker.pid == pid


async def test_it_ends_with_whoever_used_it() -> None:
    async with WorkerProcess(MEMORY, COMMAND) as worker:
        await run(worker, jobs.double, 1)
        pid = worker.pid
        waiting = asyncio.create_task(run(worker, jobs.nap, 60.0, bounds=Bounds(60.0, 60.0)))
        await asyncio.sleep(0.1)
    assert gone(pid)
    assert await asyncio.wait([waiting], timeout=5)
    assert waiting.cancelled()


PARENT = """
    import asyncio, sys
    sys.path.insert(0, sys.argv[1])
    import offload_jobs as jobs
    from moe_operator.offload.process import Bounds, WorkerProcess

    async def main():
        async with WorkerProcess(2**26, (jobs.__file__,)) as worker:
            await worker.run("me", Bounds(60, 60), jobs.double, 1)
            print(worker.pid, flush=True)
            await worker.run("me", Bounds(60, 60), jobs.spin, 60.0)

    asyncio.run(main())
"""


def test_it_dies_with_its_parent_in_the_middle_of_a_job() -> None:
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(Path(jobs.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        assert psutil.pid_exists(pid)
        parent.kill()
    assert gone(pid)


async def test_a_cancellation_that_nobody_asked_for_costs_a_job_and_not_the_worker(
    worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stray(*_: Any) -> Any:
        raise asyncio.CancelledError

    with monkeypatch.context() as broken:
        broken.setattr(module, "_exchange", stray)
        with pytest.raises(asyncio.CancelledError):
            await run(worker, jobs.double, 21)
    assert await run(worker, jobs.double, 21) == 42


async def test_the_end_of_its_loop_is_heard(worker: WorkerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    lasts = asyncio.create_task(worker.lasts())
    assert await run(worker, jobs.double, 21) == 42
    assert not lasts.done()
    monkeypatch.setattr(WorkerProcess, "_next", lambda _: 1 / 0)
    with pytest.raises(JobDelayedError):
        await run(worker, jobs.double, 21, bounds=Bounds(1.0, 0.5))
    await asyncio.wait_for(lasts, 5)


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_a_process_that_plans_has_its_kernels_before_its_memory_is_bounded() -> None:
    """Numba and LLVM take more than the plan may."""
    gathered, marks = Gathered(), []
    for ids in np.split(domains(4000)[0][:1800], 3):
        gathered.answer(ids)
        marks.append(Mark.of(gathered.seen(), gathered.now))
    asked = question(now=gathered.now, marks=tuple(marks[:2]))
    async with WorkerProcess(48 * 2**20, PLANNING_CHILD) as worker:
        found = await run(worker, propose, gathered.told(), asked, bounds=Bounds(60.0, 800.0))
    assert found.content is not None, found.message


async def test_a_job_is_late_while_a_process_prepares_itself_which_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = asyncio.create_subprocess_exec, []

    async def starting(*command: Any, **options: Any) -> Any:
        started.append(command)
        return await start(*command, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", starting)
    async with WorkerProcess(MEMORY, (jobs.__file__, "2")) as worker:
        with pytest.raises(JobDelayedError, match="with its start"):
            await run(worker, jobs.double, 1, bounds=Bounds(1.0, 0.2))
        assert await run(worker, jobs.double, 2) == 4
    assert len(started) == 1


async def test_a_process_that_is_never_ready_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_READY_SECONDS", 0.2)
    async with WorkerProcess(MEMORY, (jobs.__file__, "600")) as worker:
        with pytest.raises(JobLostError, match="was not ready within 0 s"):
            await run(worker, jobs.double, 1)
