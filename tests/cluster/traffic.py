"""Clients that never pause while a test does something to what serves them, and what became of their requests."""

import asyncio
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from benchmarks.serving.client import Ask, Client, Outcome, Verdict
from benchmarks.serving.judge import Judge
from benchmarks.serving.traffic import Mix

from moe_dev.paths import CLONE

# Two a second, and four at most: nodes, pods and what is tested need the processors, too.
PAUSE_SECONDS, STREAMS = 0.5, 4
BEGIN_SECONDS = 60.0
# Many short ones, so that there is always one that begins and one that ends.
MIX = Mix(prompt=(8, 64), answer=(16, 64), distinct=12)
# Of the longest answer, on a machine on which much else happens.
END_SECONDS = 120.0


class Traffic:
    """Greedy requests to the API at ``url`` (with /v1 at its end) for as long as the block lasts, from a thread.

    Nothing is asked twice: *failed* is anything but a complete answer, *wrong* is one with other tokens than the
    unsharded model's.

    Attributes:
        outcomes: in order of their ends.
    """

    def __init__(self, url: str, model: str) -> None:
        self.outcomes: list[Outcome] = []
        self._url, self._model = url, model
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._ask()), name="traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.flow(BEGIN_SECONDS)
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The requests under way come to their ends."""
        self._stop()

    def flow(self, seconds: float = END_SECONDS) -> None:
        """Until twice as many answers as there are streams have ended, so that some began after this was called."""
        enough = len(self.outcomes) + 2 * STREAMS
        deadline = time.monotonic() + seconds
        while len(self.outcomes) < enough:
            assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {enough} answers: {len(self.outcomes)}"
            time.sleep(0.1)

    @property
    def failed(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.verdict is not Verdict.COMPLETE]

    @property
    def longest_pause(self) -> float:
        """Seconds."""
        return max((one.pause for one in self.outcomes), default=0.0)

    def check(self, what: str, may_fail: Callable[[Outcome], bool] = lambda _: False) -> None:
        """Prints what became of all; fails where any was wrong, or one failed that may not."""
        failed = self.failed
        judge = Judge(CLONE / "models" / "tiny", self._resume)
        complete = [one for one in self.outcomes if one.verdict is Verdict.COMPLETE]
        wrong = sum(judge.is_wrong(one.ask, one.token_ids) for one in complete)
        of = f"{len(self.outcomes)} requests, {len(failed)} failed, {wrong} wrong"
        print(f"{what}: {of}, longest pause {self.longest_pause:.1f} s", *map(self._failure, failed), sep="\n  ")
        assert complete
        told = [one for one in failed if not may_fail(one)]
        assert not told, f"{what}: {len(told)} of {len(self.outcomes)} failed that may not: {told[0].why}"
        assert not wrong, f"{what}: {wrong} of {len(complete)} wrong"

    def _failure(self, one: Outcome) -> str:
        begun = one.begun - min(each.begun for each in self.outcomes)
        return f"{one.why} (begun {begun:.0f} s after the first one, for {one.ended - one.begun:.0f} s; api {one.api})"

    def _stop(self) -> None:
        self._end.set()
        self._thread.join(END_SECONDS)
        assert not self._thread.is_alive(), f"waited {END_SECONDS:.0f} s for requests under way to end"

    async def _ask(self) -> None:
        asks, places = MIX.endless(), asyncio.Semaphore(STREAMS)

        async def ask(client: Client) -> None:
            try:
                self.outcomes.append(await client.ask(next(asks)))
            finally:
                places.release()

        async with Client(self._url, self._model) as client, asyncio.TaskGroup() as group:
            while not self._end.is_set():
                await places.acquire()
                group.create_task(ask(client))
                await asyncio.sleep(PAUSE_SECONDS)

    def _resume(self, ask: Ask) -> list[int]:
        async def answer() -> list[int]:
            async with Client(self._url, self._model) as client:
                return (await client.ask(ask)).token_ids

        return asyncio.run(answer())
