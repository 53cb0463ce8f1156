"""A data plane of processes without a Ray: a directory, shards and attention replicas, each one alone, over sockets.

They call each other as on Ray, by ``wire.caller``; where each one is stands in a file of the plane's folder, which
takes the place of Serve's handles. A test is what Serve is there: it starts who has ended anew, with the configuration
that it had last.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

from moe_contract.applications import AttentionConfig, ModelArgs, ShardConfig, ShardRef
from moe_contract.report import DirectoryReport
from moe_serving import faults
from moe_serving.changes import Changes
from moe_serving.checkpoint import inspect_model
from moe_serving.directory import directory as directory_module
from moe_serving.directory.directory import Directory
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncReply, SyncRequest
from moe_serving.directory.publication import Publication
from moe_serving.engine.engine import Engine
from moe_serving.engine.request import GenerationRequest, Sampling, TokenEvent
from moe_serving.experts import peers
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription, ShardIdentity
from moe_serving.experts.shard import Shard
from moe_serving.faults import FaultPoint
from moe_serving.routing.client import MAX_REPLY_BYTES, RemoteExperts
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.routing.sync import DirectorySync
from moe_serving.routing.table import RoutingTable
from moe_serving.wire.caller import Caller
from moe_serving.wire.calls import CallServer
from moe_serving.wire.endpoint import Address, Endpoint
from moe_serving.wire.errors import PeerGoneError
from moe_serving.wire.transport import SocketFabric

NODE = "local"
DIRECTORY = "directory"
WAIT_S = 240.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["moe_serving.experts.shard", "moe_serving.engine.engine"])


@dataclass(frozen=True, slots=True)
class Setting:
    """What all processes of a plane know.

    Attributes:
        folder: where each says where it listens.
        model: that they serve.
    """

    folder: Path
    model: ModelArgs

    def caller(self, name: str, of: str) -> Caller:
        async def find() -> Address:
            address: Address = pickle.loads((self.folder / of).read_bytes())
            return address

        return Caller(find, name, NODE, self.model.network)

    async def listen(self, name: str, methods: dict[str, Any]) -> None:
        """Be called as ``name``."""
        endpoint = Endpoint.open(NODE, "127.0.0.1", self.model.network)
        await CallServer.start(endpoint, methods)
        written = self.folder / f"{name}.new"
        written.write_bytes(pickle.dumps(endpoint.address))
        written.rename(self.folder / name)


class DirectoryRole:
    """See ``serve.directory``."""

    def __init__(self, setting: Setting, name: str, tell: Callable[[Any], None]) -> None:
        self._setting = setting
        directory_module.Publication = _Published  # type: ignore[misc]  # in this process of its own
        self._directory = Directory(setting.model, lambda model: inspect_model(model.path, model.dtype), self._connect)

    async def start(self) -> None:
        self._running = asyncio.create_task(self._directory.run())

        async def sync(request: SyncRequest) -> SyncReply:
            return await self._directory.sync(request)

        async def take_statistics(report: StatisticsReport) -> StatisticsHeard:
            return self._directory.take_statistics(report)

        await self._setting.listen(DIRECTORY, {"sync": sync, "take_statistics": take_statistics})

    async def configure(self, config: object) -> None:
        self._directory.configure(config)

    async def tables(self) -> list[tuple[int, bool]]:
        """Epoch of each table that it put in force, and whether it has every expert."""
        return _Published.tables

    async def report(self) -> DirectoryReport:
        assert not self._running.done(), self._running
        return self._directory.report()

    def _connect(self, ref: ShardRef) -> _ShardClient:
        return _ShardClient(self._setting.caller(DIRECTORY, ref.application))


class _Published(Publication):
    """What one directory puts in force."""

    tables: ClassVar[list[tuple[int, bool]]] = []

    def publish(self, *arguments: Any) -> bool:
        changed = super().publish(*arguments)
        if changed:
            self.tables.append((self.epoch, self.table.complete))
        return changed


class _ShardClient:
    """See ``serve.directory.DirectClient``."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        try:
            description: ShardDescription = await self._caller.call("describe", known, hold, hold=hold)
        except PeerGoneError as error:
            raise ShardGoneError(str(error)) from error
        return description

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        await self._caller.call("assign", incarnation, tuple(load), tuple(free))

    async def look_again(self, incarnation: str, digest: str) -> None:
        await self._caller.call("look_again", incarnation, digest)

    def close(self) -> None:
        self._caller.close()


class ShardRole:
    """See ``serve.experts``."""

    def __init__(self, setting: Setting, name: str, tell: Callable[[Any], None]) -> None:
        self._setting, self._name = setting, name
        self._changes = Changes()
        loop = asyncio.get_running_loop()
        identity = ShardIdentity(int(name.rpartition("-")[2]), NODE, "127.0.0.1")
        self._shard = Shard(
            identity, setting.model, ShardConfig(), lambda: loop.call_soon_threadsafe(self._changes.note)
        )

    async def start(self) -> None:
        self._shard.start()
        methods = {"describe": self._describe, "assign": self._assign, "look_again": self._look_again}
        await self._setting.listen(self._name, methods)

    async def configure(self, config: ShardConfig) -> None:
        self._shard.configure(config)

    async def _describe(self, known: str | None, hold: float) -> ShardDescription:
        if known == str(self._changes.count):
            await self._changes.beyond(self._changes.count, hold)
        version = str(self._changes.count)
        return replace(self._shard.describe(), version=version)

    async def _assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        self._shard.assign(incarnation, load, free)

    async def _look_again(self, incarnation: str, digest: str) -> None:
        self._shard.look_again(incarnation, digest)


class AttentionRole:
    """See ``serve.attention``; what it answers goes through the pipe, as what ``tell`` takes."""

    def __init__(self, setting: Setting, name: str, tell: Callable[[Any], None]) -> None:
        model = setting.model
        facts = inspect_model(model.path, model.dtype)
        fabric = SocketFabric(facts.digest, name, NODE, model.network, MAX_REPLY_BYTES)
        self._client = _Observed(facts.layers, facts.experts, fabric, NODE)
        self._engine = Engine.load(
            Path(model.path), model.dtype, "cpu", self._client, AttentionConfig(), on_step=self._client.note_step
        )
        self._engine.start()
        self._tell = tell
        status = AttentionStatus(ready=True, digest=facts.digest, pid=os.getpid(), node=NODE)
        directory, statistics = setting.caller(name, DIRECTORY), setting.caller(name, DIRECTORY)

        async def sync(request: SyncRequest) -> SyncReply:
            reply: SyncReply = await directory.call("sync", request, hold=request.hold)
            return reply

        async def tell_statistics(report: StatisticsReport) -> StatisticsHeard:
            heard: StatisticsHeard = await statistics.call("take_statistics", report)
            return heard

        self._sync = DirectorySync(self._client, name, lambda: status, sync, tell_statistics)

    async def start(self) -> None:
        self._running = asyncio.create_task(self._sync.run())

    async def ask(self, request: GenerationRequest) -> None:
        self._engine.submit(request, lambda event: self._tell((request.request_id, event)))

    async def tables(self) -> list[tuple[int, bool]]:
        """Epoch of each table that it got, and whether it has every expert."""
        return self._client.tables


class _Observed(RemoteExperts[Any]):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tables: list[tuple[int, bool]] = []

    def update(self, table: RoutingTable) -> None:
        self.tables.append((table.version.epoch, table.complete))
        super().update(table)


ROLES = {"directory": DirectoryRole, "shard": ShardRole, "attention": AttentionRole}


class RoleProcess:
    """One process, and what it tells.

    Attributes:
        name: ``directory``, ``shard-0``, ``attention-1``.
        pid: of the process.
    """

    def __init__(self, name: str, setting: Setting, tell: Callable[[Any], None] = lambda told: None) -> None:
        self.name = name
        self._pipe, theirs = _context.Pipe()
        self._numbers = itertools.count()
        self._answers: dict[int, Any] = {}
        self._changed = threading.Condition()
        self._ended = False
        self._tell = tell
        self._process = _context.Process(target=_run, args=(theirs, name, setting), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        theirs.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def alive(self) -> bool:
        with self._changed:
            return not self._ended

    def call(self, method: str, *arguments: Any) -> Any:
        """
        Raises:
            ConnectionError: the process has ended.
        """
        number = next(self._numbers)
        try:
            self._pipe.send((number, method, arguments))
        except OSError as error:
            raise ConnectionError(f"{self.name} has ended") from error
        with self._changed:
            if not self._changed.wait_for(lambda: number in self._answers or self._ended, WAIT_S):
                raise TimeoutError(f"{self.name} does not answer {method}")
            if number not in self._answers:
                raise ConnectionError(f"{self.name} has ended")
            answer = self._answers.pop(number)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def crash_at(self, point: FaultPoint, times: int) -> None:
        """It ends itself when it passes ``point`` that often from now on."""
        self.call("crash_at", point, times)

    def kill(self) -> None:
        self._process.kill()
        self._process.join(WAIT_S)
        self._reader.join(WAIT_S)
        self._pipe.close()

    def _read(self) -> None:
        while True:
            try:
                number, said = self._pipe.recv()
            except (EOFError, OSError):
                break
            if number is None:
                self._tell(said)
                continue
            with self._changed:
                self._answers[number] = said
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._tell(None)


def _run(pipe: Connection, name: str, setting: Setting) -> None:
    # Who ends is noticed at once; nobody else is passed over because the machine stands still.
    peers.CONNECT_SECONDS = peers.PIECE_SECONDS = WAIT_S
    asyncio.run(_serve(pipe, name, setting))


async def _serve(pipe: Connection, name: str, setting: Setting) -> None:
    sending = threading.Lock()

    def send(number: int | None, said: Any) -> None:
        with sending:
            pipe.send((number, said))

    async def answer(number: int, method: str, arguments: tuple[Any, ...]) -> None:
        try:
            said = _arm(*arguments) if method == "crash_at" else await getattr(role, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - raised again where it was called from
            said = error
        send(number, said)

    role: Any = ROLES[name.partition("-")[0]](setting, name, lambda said: send(None, said))
    await role.start()
    running = set()
    while True:
        try:
            call = await asyncio.to_thread(pipe.recv)
        except EOFError:
            os._exit(0)  # the test has ended
        running.add(task := asyncio.create_task(answer(*call)))
        task.add_done_callback(running.discard)


def _arm(point: FaultPoint, times: int) -> None:
    left = itertools.count(times - 1, -1)

    def crash(passed: FaultPoint) -> None:
        if passed is point and next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
            threading.Event().wait()  # the signal ends all threads, but perhaps not this one first

    faults.hook = crash


class Stream:
    """Greedy answers to one prompt again and again, by whichever replica lives; goes on as the api does.

    Attributes:
        answers: those that came to their ends.
        error: what a client would have been told, which should never be.
    """

    def __init__(self, replicas: Callable[[], Sequence[RoleProcess]], prompt: tuple[int, ...], tokens: int) -> None:
        self._replicas = replicas
        self._request = GenerationRequest("", prompt, Sampling(max_tokens=tokens, ignore_eos=True))
        self._events: dict[str, list[TokenEvent]] = {}
        self._changed = threading.Condition()
        self._stopping = self._over = False
        self.answers: list[tuple[int, ...]] = []
        self.error: str | None = None
        self.prompt = prompt
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def take(self, told: tuple[str, TokenEvent] | None) -> None:
        """What a replica tells; None: it has ended."""
        with self._changed:
            if told is not None:
                self._events.setdefault(told[0], []).append(told[1])
            self._changed.notify_all()

    def stop(self) -> None:
        """The answer under way comes to its end."""
        self._stopping = True
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive(), "an answer does not come to its end"

    def end(self) -> None:
        """Ask no more, whatever is under way: the replicas are about to end, and nobody starts them anew."""
        self._stopping = self._over = True

    def resume(self, got: tuple[int, ...]) -> tuple[int, ...]:
        """The rest of an answer that begins with ``got``."""
        return self._answer(-1, got)[len(got) :]

    def _run(self) -> None:
        try:
            for number in itertools.count():
                if self._stopping:
                    return
                self.answers.append(self._answer(number))
        except Exception as error:  # noqa: BLE001 - told by the test
            self.error = f"{type(error).__name__}: {error}"

    def _answer(self, number: int, got: tuple[int, ...] = ()) -> tuple[int, ...]:
        for turn in itertools.count():
            if self._over:
                raise ConnectionError("the plane has ended")
            replica = self._replicas()[(number + turn) % len(self._replicas())]
            name = f"{number}.{turn}"
            request = replace(self._request, request_id=name, emitted_ids=got, resumed=bool(got))
            try:
                replica.call("ask", request)
            except ConnectionError:
                self._pause()
                continue
            ended = self._follow(name, replica)
            got += tuple(itertools.chain.from_iterable(event.token_ids for event in self._events.pop(name, [])))
            if ended:
                return got
        raise AssertionError

    def _follow(self, name: str, replica: RoleProcess) -> bool:
        """Whether it came to its end; False where the replica has ended."""

        def last() -> TokenEvent | None:
            return self._events[name][-1] if self._events.get(name) else None

        def over() -> bool:
            return bool((event := last()) and event.finish_reason) or not replica.alive

        with self._changed:
            while not self._changed.wait_for(over, 1.0):
                pass
            event = last()
        if event is not None and event.error is not None:
            raise RuntimeError(event.error)
        return event is not None and event.finish_reason is not None

    def _pause(self) -> None:
        with self._changed:
            self._changed.wait(0.05)
