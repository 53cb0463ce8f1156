"""What api processes and their directory tell each other, whoever of them ends and begins, in any order."""

from __future__ import annotations

import asyncio
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from moe_contract.report import DirectoryReport, Progress
from moe_serving.api import watch
from moe_serving.api.watch import DirectoryWatch, Said
from moe_serving.directory.apis import MOST_GONE, ApiReply, Apis, ApiSync
from moe_serving.directory.leases import LEASE_SECONDS

KEY = ("moe_http_requests_total", ())
REPORT = DirectoryReport(term=1, revision=1, epoch=1, progress=Progress(copied=0, total=0, settled=True))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["count", "poll", "scrape", "api ends", "api begins", "directory restarts"]), st.floats(0, 1)
    ),
    max_size=40,
)


class Scene:
    """Some processes, and a clock that is set by hand; ``told``: by each process that ever was."""

    def __init__(self) -> None:
        self.now = 100.0
        self.directory = Apis()
        self.live: list[Process] = []
        self.told: list[Process] = []
        self.shown = 0.0
        self.begin()

    def begin(self) -> None:
        self.live.append(Process(self))
        self.told.append(self.live[-1])

    async def poll_all(self) -> None:
        for process in self.live:
            await process.watch.ask()

    async def restart_directory(self) -> None:
        """Each process has told it of itself within the last seconds, and does again within the next ones."""
        await self.poll_all()
        self.directory = Apis()
        assert (await self.live[0].watch.totals()) is None, "it cannot know all yet"
        await self.poll_all()
        self.now += LEASE_SECONDS

    async def scrape(self, process: Process) -> None:
        totals = await process.watch.totals()
        if totals is None:
            return
        told = totals.counts.get(KEY, 0.0)
        assert told >= self.shown, f"the counter fell from {self.shown} to {told}"
        assert told == sum(each.heard for each in self.told)
        self.shown = told


class Process:
    def __init__(self, scene: Scene) -> None:
        self.counted = self.heard = 0.0
        self._scene = scene
        self.watch = DirectoryWatch(self._call, lambda: Said(True, None, {KEY: self.counted}, {}))

    async def _call(self, sync: ApiSync) -> ApiReply:
        self.heard = self.counted
        self._scene.directory.take(sync, self._scene.now)
        return self._scene.directory.reply(sync, REPORT, self._scene.now)


async def live_through(steps: list[tuple[str, float]]) -> None:
    scene = Scene()
    for step, choice in steps:
        process = scene.live[int(choice * len(scene.live)) % len(scene.live)]
        match step:
            case "count":
                process.counted += 1
            case "poll":
                await process.watch.ask()
            case "scrape":
                await scene.scrape(process)
            case "api begins":
                scene.begin()
            case "api ends" if len(scene.live) > 1:
                scene.live.remove(process)
            case "directory restarts":
                await scene.restart_directory()
        scene.now += 1
    scene.begin()
    for process in reversed(scene.live):
        await scene.scrape(process)


@given(STEPS)
@settings(max_examples=60)
def test_scrapes_never_fall_and_tell_all_that_was_told(steps: list[tuple[str, float]]) -> None:
    with patch.object(watch, "_PAUSE_S", 0.0), patch.object(watch, "LEDGER_S", 0.0):
        asyncio.run(live_through(steps))


async def test_more_processes_than_are_kept_apart_come_and_go() -> None:
    with patch.object(watch, "_PAUSE_S", 0.0), patch.object(watch, "LEDGER_S", 0.0):
        scene = Scene()
        for _ in range(3 * MOST_GONE):
            scene.begin()
            scene.live[-1].counted = 2.0
            await scene.poll_all()
            scene.live.pop()
            scene.now += LEASE_SECONDS
            await scene.scrape(scene.live[0])
        await scene.restart_directory()
        await scene.scrape(scene.live[0])
    assert scene.shown == 6.0 * MOST_GONE
