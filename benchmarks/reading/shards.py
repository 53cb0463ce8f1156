"""Shards that load: one in this process, and one in another process for it to copy from."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.reading.plain import Span, Taken, taking

OPEN_S = 120.0
LOAD_S = 600.0
NODE = "node"

Key = tuple[int, int]
"""Layer and expert."""


def keys_of(path: Path, dtype: str, shards: int) -> tuple[list[Key], int, list[Span]]:
    """What one of ``shards`` shards holds, every second expert of two; bytes as served; and where they are stored."""
    from moe_serving.checkpoint import Checkpoint  # noqa: PLC0415 - whoever asks for help need not wait for it

    checkpoint = Checkpoint.open(path)
    facts = checkpoint.facts(dtype)
    keys = [(layer, expert) for layer in range(facts.layers) for expert in range(0, facts.experts, shards)]
    spans = []
    for key in keys:
        stored = checkpoint.expert_tensors(*key)
        for part in (*stored.gate_up, stored.down):
            if part.expert is not None:
                raise ValueError(f"{path}: experts are stored in one piece; save them one by one")
            entry = checkpoint.tensors[part.name]
            spans.append(Span(entry.file, entry.begin, entry.end))
    return keys, len(keys) * facts.bytes_per_expert, spans


class OneShard:
    """Of this process, without Ray or a directory."""

    def __init__(self, path: Path, dtype: str, network: str, index: int = 0) -> None:
        from moe_contract.applications import ModelArgs, ShardConfig  # noqa: PLC0415 - as above
        from moe_serving.experts.description import ShardIdentity  # noqa: PLC0415
        from moe_serving.experts.shard import Shard  # noqa: PLC0415

        model: dict[str, Any] = {"path": str(path), "dtype": dtype, "device": "cpu", "network": network}
        self._news = threading.Event()
        self.shard = Shard(
            ShardIdentity(index, NODE, "127.0.0.1"), ModelArgs(**model), ShardConfig(slots_per_shard=1 << 10),
            self._news.set,
        )  # fmt: skip
        self.shard.start()
        self._wait(lambda said: said.address is not None, OPEN_S, "a shard to open its checkpoint")

    @property
    def address(self) -> Any:
        return self.shard.describe().address

    def load(self, keys: Sequence[Key], peer: Any = None) -> None:
        """All of ``keys``, from a peer or the checkpoint."""
        from moe_serving.experts.description import CHECKPOINT, LoadOrder  # noqa: PLC0415 - as above

        sources = (CHECKPOINT,) if peer is None else (peer, CHECKPOINT)
        self.shard.assign(self.shard.describe().incarnation, [LoadOrder(*key, sources) for key in keys], ())
        self._wait(lambda said: not said.loading.queue, LOAD_S, "a shard to load its experts")
        counts = self.shard.describe().counts
        if peer is not None and counts.get("from_checkpoint"):
            raise RuntimeError(f"{counts['from_checkpoint']} bytes did not come from the peer: {counts}")

    def digests(self, keys: Sequence[Key]) -> None:
        """Make that of each once more."""
        from moe_serving.checkpoint.reader import digest_of  # noqa: PLC0415 - as above

        if self.shard._open is None:
            raise RuntimeError("the shard is not open")
        for layer, expert in keys:
            with self.shard._open.pool.pinned(layer, [expert]) as slots:
                if digest_of(slots[expert].weights) != slots[expert].digest:
                    raise RuntimeError(f"expert {expert} of layer {layer} is not what was loaded")

    def stop(self) -> None:
        self.shard.stop(OPEN_S)

    def _wait(self, done: Any, seconds: float, what: str) -> None:
        end = time.monotonic() + seconds
        while not done(self.shard.describe()):
            if time.monotonic() > end:
                raise TimeoutError(f"waited {seconds:g} s for {what}: {self.shard.describe().problem}")
            self._news.wait(1.0)
            self._news.clear()


def load(path: Path, dtype: str, keys: Sequence[Key], size: int) -> tuple[Taken, Taken]:
    """What a shard takes for its experts, and of that what their checksums alone would take, on one thread."""
    one = OneShard(path, dtype, "unix")
    try:
        return taking(size, lambda: one.load(keys)), taking(size, lambda: one.digests(keys))
    finally:
        one.stop()


def copy(path: Path, dtype: str, network: str, keys: Sequence[Key], size: int, peer: Peer) -> Taken:
    """What a shard takes to copy its experts from another one; processor time is that of both."""
    one = OneShard(path, dtype, network, 1)
    try:
        before = peer.cpu()
        taken = taking(size, lambda: one.load(keys, peer.address))
        return Taken(size, taken.seconds, taken.cpu + peer.cpu() - before)
    finally:
        one.stop()


class Peer:
    """A shard in another process, whose experts are loaded."""

    def __init__(self, told: Connection) -> None:
        self._told = told
        self.address = self._hear()

    def cpu(self) -> float:
        """Processor seconds so far."""
        self._told.send("cpu")
        return float(self._hear())

    def _hear(self) -> Any:
        if not self._told.poll(LOAD_S):
            raise TimeoutError(f"waited {LOAD_S:g} s for a shard in another process")
        return self._told.recv()


@contextmanager
def peer(path: Path, dtype: str, keys: Sequence[Key]) -> Iterator[Peer]:
    """It ends with the block."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(path, dtype, keys, theirs), daemon=True)
    process.start()
    try:
        theirs.close()
        yield Peer(ours)
    finally:
        ours.close()
        process.join(OPEN_S)


def _serve(path: Path, dtype: str, keys: Sequence[Key], told: Connection) -> None:
    one = OneShard(path, dtype, "auto")
    try:
        one.load(keys)
        told.send(one.address)
        while True:
            told.recv()
            told.send(time.process_time())
    except EOFError:
        pass
    finally:
        one.stop()
