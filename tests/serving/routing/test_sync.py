"""Reports of an attention replica to a directory that is not always there."""

from __future__ import annotations

import asyncio
import logging

import numpy as np
import pytest

from moe_serving.directory.messages import AttentionStatus, SyncReply, SyncRequest
from moe_serving.routing import sync
from moe_serving.routing.counters import RoutingCounters
from moe_serving.routing.sync import DirectorySync
from moe_serving.routing.table import RoutingTable, TableVersion

TABLE = RoutingTable(TableVersion(5, "d"), (), np.zeros((1, 2, 0), dtype=bool))


class Client:
    def __init__(self) -> None:
        self.table = RoutingTable.empty(1, 2)
        self.tokens = 0

    @property
    def version(self) -> TableVersion:
        return self.table.version

    def update(self, table: RoutingTable) -> None:
        self.table = table

    def take_counters(self) -> RoutingCounters:
        taken = RoutingCounters.zero(1, 2)
        taken.tokens, self.tokens = self.tokens, 0
        return taken


class DirectoryStub:
    """Answers with ``TABLE``, or not at all."""

    def __init__(self) -> None:
        self.requests: list[SyncRequest] = []
        self.fault: Exception | None = None
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
        return SyncReply(TABLE if request.version != TABLE.version else None)


def make(client: Client, directory: DirectoryStub) -> DirectorySync:
    return DirectorySync(client, "a", lambda: AttentionStatus(ready=True), directory.sync)


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
    sent = [(r.sequence, r.counters.tokens if r.counters else None) for r in directory.requests]
    assert sent == [(1, 3), (1, 3), (2, 4), (2, None)]


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
        await DirectorySync(Client(), "a", lambda: AttentionStatus(ready=True), hang).sync_once()
