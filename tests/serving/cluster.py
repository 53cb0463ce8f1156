"""A real process tree of expert shards with a directory, without Ray: for every test that crosses a process.

::

    with LocalCluster.start(checkpoint, shards=4) as cluster:
        cluster.place(shards=2, copies=1)       # returns once the placement is in force; may be called again and again
        experts = cluster.client()              # a RemoteExperts that follows the directory: give it to an Engine
        ...
        cluster.kill(0)                         # SIGKILL; cluster.restart(0) brings it back, empty
        cluster.place(shards=4, copies=2)

``LocalCluster.start(..., network="tcp")`` sends everything over TCP; ``verify=True`` makes ``client()`` recompute every
layer bit for bit; ``sites`` puts shards on nodes, and into network namespaces, of their own. Shards are forked from a
server that has imported torch already, so a start takes well under a second once the first one is up. What the
directory does is what it does on Ray; only the calls to shards go through pipes.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, TypeVar

from moe_contract.applications import DirectoryConfig, Dtype, ModelArgs, Network, ShardConfig, ShardRef, Weights
from moe_contract.report import DirectoryReport
from moe_placement import Placement, balanced_placement
from moe_placement.encoding import encode_placement
from moe_placement.statistics import RoutingStatistics, decode_statistics
from moe_serving.checkpoint import inspect_model
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.device import resolve_device
from moe_serving.directory.directory import Directory
from moe_serving.directory.errors import ShardGoneError
from moe_serving.directory.messages import AttentionStatus, StatisticsReport, SyncReply, SyncRequest
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription, ShardIdentity
from moe_serving.experts.shard import Shard
from moe_serving.routing.client import MAX_REPLY_BYTES, RemoteExperts
from moe_serving.routing.dispatch import Patience
from moe_serving.routing.exchange import StatisticsHeard
from moe_serving.routing.sync import DirectorySync
from moe_serving.routing.verify import LayerVerifier
from moe_serving.wire.transport import Fabric, SocketFabric

NODE = "local"
WAIT_S = 120.0
_CLONE_NEWNET = 0x40000000
"""setns(2): the descriptor must be of a network namespace."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["moe_serving.experts.shard"])

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Site:
    """Where a shard is: a node by name, the host by which others reach it, a network namespace (None: ours)."""

    node: str = NODE
    host: str = "127.0.0.1"
    namespace: str | None = None


class LocalCluster:
    """Shard processes, and a directory and its loop in a thread of this process."""

    def __init__(self, model: ModelArgs, spare_slots: int, sites: Sequence[Site] = ()) -> None:
        self.model = model
        self._sites = sites
        self.facts = inspect_model(model.path, model.dtype, model.weights)
        self.spare_slots = spare_slots
        self.max_bytes_per_second = 0
        """Of copies; what ``place`` and ``restart`` tell the shards from now on."""
        self.look_seconds = 0.02
        """Between two looks at what is waited for: each asks the directory for a report."""
        self.shards: list[ShardProcess] = []
        self._revision = itertools.count(1)
        self._names = itertools.count()
        self._placement: Placement | None = None
        self._config: dict[str, Any] = {}
        self.directory: Directory | None = None
        self._syncs: dict[RemoteExperts[Any], Future[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="directory", daemon=True)
        self._thread.start()
        self.thread_ident = self._thread.ident or 0
        """Of the thread in which the directory lives, and clients' reports are made."""
        self.start_directory()

    @classmethod
    @contextmanager
    def start(
        cls,
        path: Path,
        shards: int,
        *,
        dtype: Dtype = "float32",
        network: Network = "auto",
        verify: bool = False,
        spare_slots: int = 2,
        sites: Sequence[Site] = (),
        weights: Weights = "Checkpoint",
    ) -> Iterator[LocalCluster]:
        """``shards`` empty shard processes, in turn on ``sites`` where these are given; see ``place``."""
        args = {"path": str(path), "dtype": dtype, "network": network, "verify": verify, "weights": weights}
        model = ModelArgs.model_validate(args | {"device": "cpu"})
        cluster = cls(model, spare_slots, sites)
        try:
            for _ in range(shards):
                cluster.add_shard()
            yield cluster
        finally:
            cluster.stop()

    def add_shard(self) -> None:
        """One more process; it holds nothing until it is placed on."""
        self.shards.append(self._new_shard(len(self.shards)))

    def place(self, shards: int, copies: int, *, wait: bool = True) -> Placement:
        """Spread ``copies`` of every expert over the first ``shards`` shards; the others end empty."""
        slots = -(-self.facts.experts * copies // shards)
        per_shard = [slots if index < shards else 0 for index in range(len(self.shards))]
        placement = balanced_placement(self.facts.layers, self.facts.experts, per_shard, copies, self._placement)
        self.apply(placement, copies)
        if wait:
            self.wait_settled()
        return placement

    def apply(self, placement: Placement, min_copies: int) -> None:
        """Make ``placement`` the target, as the operator would; room is made in the shards first."""
        slots = max(placement.shard_slots)
        for shard in self.shards:
            if shard.alive:
                shard.call("configure", self._shard_config(slots))
        self._placement = placement
        self._config = DirectoryConfig(
            term=1,
            revision=next(self._revision),
            shards=tuple(ShardRef(index=i, application=f"shard-{i}") for i in range(len(self.shards))),
            slots_per_shard=slots,
            spare_slots=self.spare_slots,
            min_copies=min_copies,
            placement=encode_placement(placement),
        ).model_dump(mode="json")
        self._with_directory(lambda directory: directory.configure(self._config))

    def client(
        self,
        patience: Patience = Patience(),  # noqa: B008 - frozen
        node: str = NODE,
        through: Callable[[SocketFabric], Fabric[Any]] = lambda sockets: sockets,
    ) -> RemoteExperts[Any]:
        """An experts client in step with the directory, as in an attention replica; closed with the cluster.

        Args:
            node: the one that it is on.
            through: puts something between the client and its sockets.
        """
        name = f"attention-{next(self._names)}"
        fabric = through(SocketFabric(self.facts.digest, name, node, self.model.network, MAX_REPLY_BYTES))
        verifier = None
        if self.model.verify:
            device = resolve_device(self.model.device)
            verifier = LayerVerifier(ExpertReader(self.model.path, self.model.dtype, str(device)), device)
        client = RemoteExperts(self.facts.layers, self.facts.experts, fabric, node, patience, verifier)
        sync = DirectorySync(client, name, lambda: AttentionStatus(ready=True), self._deliver, self._hand_over)
        self._syncs[client] = self._submit(sync.run())
        self.wait_until(lambda: client.version.epoch >= self.report().epoch, f"{name} to learn the table")
        return client

    def report(self) -> DirectoryReport:
        return self._with_directory(Directory.report)

    def statistics(self) -> RoutingStatistics | None:
        """What the directory has of all clients' traffic."""
        assert self.directory is not None, "the directory is stopped"
        packed = self._run(self.directory.statistics())
        return decode_statistics(packed) if packed is not None else None

    def wait_settled(self) -> None:
        """Until the target last applied is in force everywhere and nothing else is held."""
        revision = self._config["revision"]

        def settled() -> bool:
            report = self.report()
            return report.revision == revision and report.progress.settled

        self.wait_until(settled, f"revision {revision} to be settled")

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {WAIT_S} s for {what}; the directory says {self.report()!r:.4000}")
            time.sleep(self.look_seconds)

    def kill(self, index: int) -> None:
        """SIGKILL, as when a node is lost."""
        self.shards[index].kill()

    def restart(self, index: int) -> None:
        """A new, empty process in place of a dead one."""
        self.shards[index] = self._new_shard(index)
        shard = self.shards[index]
        shard.call("configure", self._shard_config(self._config["slots_per_shard"]))
        self.wait_until(lambda: self.report().shards[index].pid == shard.pid, f"shard {index} to be seen again")

    def pause(self, index: int) -> None:
        """SIGSTOP: the process lives, its sockets stay open, nothing answers once this has returned."""
        pid = self.shards[index].pid
        os.kill(pid, signal.SIGSTOP)
        # The signal stops the others only when the thread that took it runs: until then they may go on answering.
        self.wait_until(lambda: set(_thread_states(pid)) == {"T"}, f"shard {index} to stand still")

    def resume(self, index: int) -> None:
        os.kill(self.shards[index].pid, signal.SIGCONT)

    def stop_directory(self) -> None:
        """It is gone, and with it all that it knew."""
        self._turning.cancel()
        self.directory = None

    def start_directory(self) -> None:
        """A new directory that knows nothing but its configuration, as after a crash."""

        async def start() -> Directory:
            directory = Directory(self.model, lambda model: self.facts, lambda ref: PipeClient(self, ref.index))
            await directory.inspect_model()
            directory.configure(self._config)
            return directory

        self.directory = self._run(start())
        self._turning = self._submit(self.directory.run())

    def holders(self) -> list[list[int]]:
        """Per layer and expert the first shard that the placement puts it on."""
        assert self._placement is not None
        holders: list[list[int]] = self._placement.held.argmax(axis=2).tolist()
        return holders

    def stop(self) -> None:
        for task in (*self._syncs.values(), self._turning):
            task.cancel()
        for client in self._syncs:
            client.close()
        for shard in self.shards:
            shard.kill()
        self._run(asyncio.sleep(0))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WAIT_S)
        self._loop.close()

    def _new_shard(self, index: int) -> ShardProcess:
        site = self._sites[index % len(self._sites)] if self._sites else Site()
        return ShardProcess(index, self.model, site)

    def _shard_config(self, slots: int) -> ShardConfig:
        return ShardConfig(
            slots_per_shard=slots, spare_slots=self.spare_slots, max_bytes_per_second=self.max_bytes_per_second
        )

    async def _deliver(self, request: SyncRequest) -> SyncReply:
        if self.directory is None:
            raise ConnectionError("there is no directory")
        return await self.directory.sync(request)

    async def _hand_over(self, report: StatisticsReport) -> StatisticsHeard:
        if self.directory is None:
            raise ConnectionError("there is no directory")
        return self.directory.take_statistics(report)

    def _with_directory(self, action: Callable[[Directory], T]) -> T:
        async def act() -> T:
            assert self.directory is not None, "the directory is stopped"
            return action(self.directory)

        return self._run(act())

    def _submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._submit(coroutine).result(WAIT_S)


class ShardProcess:
    """A shard in a process of its own, driven over a pipe."""

    def __init__(self, index: int, model: ModelArgs, site: Site = Site()) -> None:
        self._pipe, theirs = _context.Pipe()
        self._lock = threading.Lock()
        self._process: ForkServerProcess = _context.Process(
            target=_run_shard, args=(theirs, index, model, site), daemon=True
        )
        self._process.start()
        theirs.close()
        self.pid: int = self._process.pid or 0

    @property
    def alive(self) -> bool:
        return self._process.is_alive()

    def call(self, method: str, *arguments: Any) -> Any:
        """
        Raises:
            ShardGoneError: the process has ended.
        """
        with self._lock:
            try:
                self._pipe.send((method, arguments))
                result = self._pipe.recv()
            except (EOFError, OSError) as error:
                raise ShardGoneError(f"process {self.pid} has ended: {error}") from error
        if isinstance(result, Exception):
            raise result
        return result

    def kill(self) -> None:
        self._process.kill()
        self._process.join(WAIT_S)
        with self._lock:
            self._pipe.close()


class PipeClient:
    """Implements ``directory.monitor.ShardClient``; holds no answer back."""

    def __init__(self, cluster: LocalCluster, index: int) -> None:
        self._cluster = cluster
        self._index = index

    async def describe(self, known: str | None, hold: float) -> ShardDescription:
        description: ShardDescription = await asyncio.to_thread(self._cluster.shards[self._index].call, "describe")
        return description

    async def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        shard = self._cluster.shards[self._index]
        await asyncio.to_thread(shard.call, "assign", incarnation, tuple(load), tuple(free))

    async def look_again(self, incarnation: str, digest: str) -> None:
        await asyncio.to_thread(self._cluster.shards[self._index].call, "look_again", incarnation, digest)

    def close(self) -> None:
        pass


class _TestedShard(Shard):
    def corrupt(self, layer: int, expert: int) -> None:
        """Damage a stored weight, as a half-finished copy would."""
        assert self._open is not None
        with self._open.pool.pinned(layer, [expert]) as slots:
            slots[expert].weights.down[0, 0] += 1.0


def _run_shard(pipe: Connection, index: int, model: ModelArgs, site: Site) -> None:
    if site.namespace is not None:
        _enter_namespace(site.namespace)  # before any other thread of this process begins
    shard = _TestedShard(ShardIdentity(index, site.node, site.host), model, ShardConfig())
    shard.start()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return  # the test has ended
        try:
            pipe.send(getattr(shard, method)(*arguments))
        except Exception as error:  # noqa: BLE001 - raised again where it was called from
            pipe.send(error)


def _enter_namespace(name: str) -> None:
    """Move this thread into a network namespace made by ``ip netns add``; those it starts are there too."""
    with Path("/run/netns", name).open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter network namespace {name}")


def _thread_states(pid: int) -> Iterator[str]:
    """The state of every thread as the kernel abbreviates it: proc_pid_stat(5), field 3."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        yield stat.read_text().rpartition(")")[2].split()[0]
