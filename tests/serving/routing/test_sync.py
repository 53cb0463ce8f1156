"""Reports of an attention replica to a directory that is not always there."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncReply, SyncRequest
from moe_serving.routing import statistics, sync
from moe_serving.routing.exchange import StatisticsHeard, StatisticsKnown
from moe_serving.routing.gatherer import Gathered
from moe_serving.routing.statistics import StatisticsSync
from moe_serving.routing.sync import DirectorySync
from moe_serving.routing.table import RoutingTable, TableVersion
from moe_serving.routing.window import Window

TABLE = RoutingTable(TableVersion(5, "d"), (), np.zeros((1, 2, 0), dtype=bool))


class Client:
    def __init__(self) -> None:
        self.table = RoutingTable.empty(1, 2)
        self.tokens = 0
        self.gathered: Gathered | None = None

    @property
    def version(self) -> TableVersion:
        return self.table.version

    def update(self, table: RoutingTable) -> None:
        self.table = table

    @property
    def has_windows(self) -> bool:
        return self.tokens > 0

    def take_windows(self) -> tuple[Window, ...]:
        taken = Window.of(self.table)
        taken.rows[0], self.tokens = self.tokens, 0
        return (taken,)

    @property
    def has_statistics(self) -> bool:
        return self.gathered is not None

    def take_statistics(self) -> Gathered | None:
        taken, self.gathered = self.gathered, None
        return taken


def rows(request: SyncRequest) -> int | None:
    return sum(int(window.rows[0]) for window in request.windows) or None


class DirectoryStub:
    """Answers with ``TABLE``, or not at all."""

    def __init__(self) -> None:
        self.requests: list[SyncRequest] = []
        self.fault: Exception | None = None
        self.counts = True
        self.known: StatisticsKnown | None = None
        self.statistics: list[StatisticsReport] = []
        self.statistics_fault: Exception | None = None
        self.takes = asyncio.Event()
        self.takes.set()
        self._changed = asyncio.Condition()

    async def asked(self, times: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.requests) >= times)

    async def sync(self, request: SyncRequest) -> SyncReply:
        self.requests.append(request)
        async with self._changed:
            self._changed.notify_all()
        if self.fault is not None:
            raise self.fault
        table = TABLE if request.version != TABLE.version else None
        return SyncReply(table, counted=self.counts, statistics=self.known)

    async def take_statistics(self, report: StatisticsReport) -> StatisticsHeard:
        self.statistics.append(report)
        if self.statistics_fault is not None:
            raise self.statistics_fault
        await self.takes.wait()
        assert report.told.gathered is not None
        self.known = StatisticsKnown("d", report.told.gathered.number)
        return StatisticsHeard(self.known)


def make(client: Client, directory: DirectoryStub) -> DirectorySync:
    return DirectorySync(client, "a", lambda: AttentionStatus(ready=True), directory.sync, directory.take_statistics)


async def test_the_table_comes_and_is_acknowledged() -> None:
    client, directory = Client(), DirectoryStub()
    reports = make(client, directory)
    await reports.sync_once()
    assert client.table is TABLE
    await reports.sync_once()
    assert [request.version.epoch for request in directory.requests] == [0, 5]


async def test_counts_survive_a_failed_report_and_keep_their_number() -> None:
    client, directory = Client(), DirectoryStub()
    reports = make(client, directory)
    client.tokens = 3
    directory.fault = ConnectionError("away")
    with pytest.raises(ConnectionError):
        await reports.sync_once()
    client.tokens = 4
    directory.fault = None
    await reports.sync_once()
    await reports.sync_once()
    await reports.sync_once()
    sent = [(request.sequence, rows(request)) for request in directory.requests]
    assert sent == [(1, 3), (1, 3), (2, 4), (2, None)]


async def test_what_was_not_counted_is_told_again() -> None:
    client, directory = Client(), DirectoryStub()
    reports = make(client, directory)
    client.tokens, directory.counts = 3, False
    await reports.sync_once()
    directory.counts = True
    await reports.sync_once()
    await reports.sync_once()
    assert [(request.sequence, rows(request)) for request in directory.requests] == [(1, 3), (1, 3), (1, None)]


async def test_statistics_are_told_until_the_directory_has_them_and_not_before_it_takes_any() -> None:
    client, directory = Client(), DirectoryStub()
    tell = StatisticsSync(client, "a", lambda: "d", directory.take_statistics)
    client.gathered = Gathered(1, 0.0, b"first", 900.0)
    await tell.turn()
    assert directory.statistics == [], "nobody knows the model"
    tell.hear(StatisticsKnown("d"))
    directory.statistics_fault = ConnectionError("away")
    with pytest.raises(ConnectionError):
        await tell.turn()
    directory.statistics_fault = None
    client.gathered = Gathered(2, 0.0, b"second", 900.0)
    await tell.turn()
    assert client.gathered is not None, "not taken before the first has arrived"
    await tell.turn()
    await tell.turn()
    tell.hear(None)
    await tell.turn()
    tell.hear(StatisticsKnown("d"))
    await tell.turn()
    told = [report.told.gathered.packed for report in directory.statistics if report.told.gathered]
    assert told == [b"first", b"first", b"second", b"second"], "once more to a directory that has restarted"
    assert {report.digest for report in directory.statistics} == {"d"}


async def test_statistics_that_do_not_arrive_hold_no_report_up(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sync, "SYNC_SECONDS", 0.001)
    monkeypatch.setattr(statistics, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(statistics, "ANSWER_SECONDS", 0.05)
    client, directory = Client(), DirectoryStub()
    client.gathered, directory.known = Gathered(1, 0.0, b"first", 900.0), StatisticsKnown("d")
    directory.takes.clear()
    task = asyncio.create_task(make(client, directory).run())
    async with asyncio.timeout(20):
        while not directory.statistics:
            await directory.asked(len(directory.requests) + 1)
        await directory.asked(len(directory.requests) + 20)
        while len(directory.statistics) < 3:
            await directory.asked(len(directory.requests) + 1)
        assert client.table is TABLE
        directory.takes.set()
        while directory.known == StatisticsKnown("d"):
            await directory.asked(len(directory.requests) + 1)
    task.cancel()
    assert "statistics do not reach the directory; tried again: TimeoutError" in caplog.text
    assert "no answer from the directory" not in caplog.text


async def test_counts_that_are_lost_here_do_not_end_the_lease(caplog: pytest.LogCaptureFixture) -> None:
    class FailingClient(Client):
        def take_windows(self) -> tuple[Window, ...]:
            raise ValueError("no number")

    client, directory = FailingClient(), DirectoryStub()
    client.tokens = 3
    await make(client, directory).sync_once()
    assert len(directory.requests) == 1
    assert client.table is TABLE
    assert "counts of what was routed are lost: ValueError: no number" in caplog.text


async def test_it_goes_on_through_failures_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sync, "SYNC_SECONDS", 0.001)
    caplog.set_level(logging.INFO, "moe_serving.routing.sync")
    client, directory = Client(), DirectoryStub()
    directory.fault = RuntimeError("no such actor")
    task = asyncio.create_task(make(client, directory).run())
    async with asyncio.timeout(10):
        await directory.asked(5)
        directory.fault = None
        await directory.asked(7)
    task.cancel()
    assert client.table is TABLE
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "no such actor" in caplog.text


async def test_a_directory_that_hangs_is_taken_for_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "ANSWER_SECONDS", 0.01)

    async def hang(request: SyncRequest) -> SyncReply:
        await asyncio.sleep(60)
        raise AssertionError("nobody waits so long")

    with pytest.raises(TimeoutError):
        await DirectorySync(
            Client(), "a", lambda: AttentionStatus(ready=True), hang, DirectoryStub().take_statistics
        ).sync_once()


class HoldingDirectory(DirectoryStub):
    """Holds answers that may be held until ``released``."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def sync(self, request: SyncRequest) -> SyncReply:
        reply = await super().sync(request)
        if request.hold and reply.table is None:
            await self.released.wait()
        return reply


async def test_an_idle_replica_waits_and_what_is_new_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "SYNC_SECONDS", 0.01)
    monkeypatch.setattr(sync, "HOLD_SECONDS", 60.0)
    client, directory, running = Client(), HoldingDirectory(), 0
    reports = DirectorySync(
        client, "a", lambda: AttentionStatus(ready=True, running=running), directory.sync, directory.take_statistics
    )
    task = asyncio.create_task(reports.run())
    async with asyncio.timeout(20):
        await directory.asked(2)
        assert [request.version.epoch for request in directory.requests] == [0, 5], "the table is acknowledged at once"
        await asyncio.sleep(0.2)
        assert len(directory.requests) == 2
        running = 1
        await directory.asked(3)
        assert directory.requests[-1].status.running == 1
        client.tokens = 7
        await directory.asked(5)
        told = [(request.hold, rows(request)) for request in directory.requests]
        assert told[3:] == [(0.0, 7), (60.0, None)], "counts are not held; then it waits again"
    task.cancel()


async def test_a_held_answer_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "ANSWER_SECONDS", 0.1)
    directory = HoldingDirectory()
    client = Client()
    client.table = TABLE
    with pytest.raises(TimeoutError):
        await make(client, directory).sync_once(hold=0.2)
    asyncio.get_running_loop().call_later(0.2, directory.released.set)
    monkeypatch.setattr(sync, "ANSWER_SECONDS", 20.0)
    await make(client, directory).sync_once(hold=0.1)
