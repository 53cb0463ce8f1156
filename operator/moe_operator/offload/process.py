"""The worker process as the operator sees it: ``WorkerProcess.run`` computes a job there."""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from moe_operator.offload.errors import JobDelayedError, JobLostError, JobTooHeavyError, OffloadError
from moe_operator.offload.frames import DONE, HEAD, MOST_REPLY, OUT_OF_MEMORY, RAISED, READY, packed, unpacked
from moe_operator.offload.names import PLANNING, job_name
from moe_operator.offload.turns import Turns
from moe_operator.tasks import StrayCancellationError, stray_cancellations
from moe_operator.tenant import tenant

MEMORY_BYTES = 96 * 1024 * 1024
"""That a job may use, beside the 46 MB of the process itself. Together with the operator's own process it is within
350 MB."""
_PIECE = 256 * 1024
_ENDING_SECONDS = 2.0
"""For which the system is given to tell how a process ended."""
_CHILD = ("-m", "moe_operator.offload.child")
PLANNING_CHILD = (*_CHILD, PLANNING)
"""A process for plans, which take seconds: nothing that others wait for is computed there. It has 200 MB before the
first, most of it Numba and LLVM."""
PLANNING_MEMORY_BYTES = 320 * 1024 * 1024
"""That a plan may use: 58 layers x 256 experts on 64 shards take 190 MB."""
_READY_SECONDS = 600.0
"""Within which a process is ready: where no kernels are kept, Numba compiles for a minute or two, and for longer on a
busy machine."""
# One thread: the libraries below NumPy would reserve memory for as many as there are processors.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of a job: seconds of processor time that it may take, and seconds after which nobody waits for it any more, those
    included in which others had their turn."""

    processor_seconds: float
    seconds: float


@dataclass(slots=True, eq=False)
class _Job(Generic[T]):
    name: str
    arguments: Sequence[Any]
    bounds: Bounds
    deadline: float
    begun: float | None = None
    done: asyncio.Future[T] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def overdue(self) -> OffloadError:
        """Why it was not done in time: of what began late others are the cause, and not its size."""
        if self.begun is None or self.deadline - self.begun < self.bounds.processor_seconds:
            return JobDelayedError(
                f"the worker process was busy for {self.bounds.seconds:.0f} s, with what others asked or with its start"
            )
        return JobTooHeavyError(f"was not done within {self.bounds.seconds:.0f} s")


class WorkerProcess:
    """One per operator; use it as an async context manager. The process starts with the first job.

    Args:
        memory: bytes that a job may use.
        command: what to run instead of the project's own child; for tests.
    """

    def __init__(self, memory: int = MEMORY_BYTES, command: Sequence[str] = _CHILD) -> None:
        self._memory = memory
        self._command = command
        self._turns: Turns[_Job[Any]] = Turns()
        self._something = asyncio.Event()
        self._process: Process | None = None
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.create_task(self._work(), name="offload")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self._end()
        while (job := self._turns.next()) is not None:
            job.done.cancel()

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        return self._process.pid if self._process else None

    async def run(self, owner: str, bounds: Bounds, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Compute ``job(*args)`` there; it must be one of ``jobs.JOBS``. Those who wait take turns: the
        tenants on whose behalf it is asked, and each tenant's ``owner``s among themselves.

        A ``bytearray`` among the arguments, of which there may be one, is not copied on its way.

        Raises:
            JobTooHeavyError: it took more time or memory than it may.
            JobDelayedError: it did not get its turn in time.
            JobLostError: the process ended under it.
            Exception: what the job itself raised.
        """
        if kwargs:
            raise TypeError("jobs take positional arguments only")
        arguments = tuple(pickle.PickleBuffer(each) if isinstance(each, bytearray) else each for each in args)
        asked: _Job[T] = _Job(job_name(job), arguments, bounds, time.monotonic() + bounds.seconds)
        self._turns.add(tenant(), owner, asked)
        self._something.set()
        try:
            async with asyncio.timeout(bounds.seconds):
                return await asked.done
        except TimeoutError:
            raise asked.overdue() from None

    async def lasts(self) -> None:
        """Returns when no job is computed any more, which only a defect can cause."""
        if self._loop is not None:
            await asyncio.wait([self._loop])

    async def _work(self) -> None:
        while True:
            try:
                with stray_cancellations():
                    await self._next()
            except StrayCancellationError:
                logger.exception("the turn of a job was cancelled by nobody")

    async def _next(self) -> None:
        job = self._turns.next()
        if job is None:
            self._something.clear()
            await self._something.wait()
        elif not job.done.done():
            await self._settle(job)

    async def _settle(self, job: _Job[Any]) -> None:
        """Have one job computed and tell who waits for it; whatever is wrong, the next one finds a working process."""
        try:
            ending, result = await self._compute(job)
        except OffloadError as error:
            logger.warning("%s: %s", job.name, error)
            await self._end()
            _fail(job, error)
        except Exception as error:  # of ours: what one job shows must not stop the others
            logger.exception("%s", job.name)
            await self._end()
            _fail(job, JobLostError(f"the worker process was not understood ({type(error).__name__})"))
        except BaseException:
            job.done.cancel()
            await self._end()
            raise
        else:
            if ending == OUT_OF_MEMORY:
                await self._end()
                _fail(job, JobTooHeavyError(f"took more than {self._memory >> 20} MiB of memory"))
            elif ending == RAISED:
                _fail(job, result)
            elif not job.done.done():
                job.done.set_result(result)

    async def _compute(self, job: _Job[Any]) -> tuple[str, Any]:
        try:
            process = await self._ready()
            if job.done.done():
                return DONE, None  # nobody waits for it any more
            job.begun = time.monotonic()
            async with asyncio.timeout(job.deadline - time.monotonic()):
                return await _exchange(process, (job.name, job.bounds.processor_seconds, job.arguments))
        except TimeoutError:
            raise job.overdue() from None
        except (EOFError, OSError) as error:
            raise await self._what_ended_it(job.bounds, error) from error

    async def _what_ended_it(self, bounds: Bounds, error: Exception) -> OffloadError:
        if self._process is not None:
            await asyncio.wait([asyncio.ensure_future(self._process.wait())], timeout=_ENDING_SECONDS)
        code = await self._end()
        if code == -signal.SIGXCPU:
            return JobTooHeavyError(f"took more than {bounds.processor_seconds:.0f} s")
        return JobLostError(f"the worker process ended with {code}: {error or type(error).__name__}")

    async def _ready(self) -> Process:
        """The process, once it has prepared itself: no job's time is taken for that.

        Raises:
            JobLostError: it did not within ``_READY_SECONDS``.
            EOFError, OSError: it ended, or does not start.
        """
        if self._process is None or self._process.returncode is not None:
            await self._end()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self._command, str(os.getpid()), str(self._memory),
                stdin=PIPE, stdout=PIPE, env={**os.environ, **_ONE_THREAD},
            )  # fmt: skip
            try:
                async with asyncio.timeout(_READY_SECONDS):
                    await cast(asyncio.StreamReader, self._process.stdout).readexactly(len(READY))
            except TimeoutError:
                raise JobLostError(f"the worker process was not ready within {_READY_SECONDS:.0f} s") from None
        return self._process

    async def _end(self) -> int | None:
        """End the process if there is one, and wait for it a moment; returns how it ended, None if unknown."""
        process, self._process = self._process, None
        if process is None:
            return None
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_ENDING_SECONDS):
                while process.stdout is not None and await process.stdout.read(_PIECE):
                    pass  # until all is read, asyncio does not see the end
                return await process.wait()
        except TimeoutError:
            logger.error("the worker process %d does not end though it was killed; another one is started", process.pid)
            return None


async def _exchange(process: Process, request: Any) -> tuple[str, Any]:
    """Send one request and read its reply.

    Raises:
        EOFError, OSError: the process ended, or its reply is longer than ``MOST_REPLY``.
    """
    stdin, stdout = cast(asyncio.StreamWriter, process.stdin), cast(asyncio.StreamReader, process.stdout)
    for part in packed(request):
        view = memoryview(part)
        for begin in range(0, len(view), _PIECE):
            stdin.write(view[begin : begin + _PIECE])
            await stdin.drain()
    size, beside = HEAD.unpack(await stdout.readexactly(HEAD.size))
    if size + beside > MOST_REPLY:
        raise OSError(f"a reply of {size + beside} bytes")
    return cast(tuple[str, Any], unpacked(await stdout.readexactly(size), bytearray()))


def _fail(job: _Job[Any], error: Exception) -> None:
    if not job.done.done():
        job.done.set_exception(error)
        # Retrieved here too: one whose task has gone must not complain that nobody looked.
        job.done.exception()
