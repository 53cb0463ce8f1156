"""One expert shard, whole but for Ray: opens the checkpoint, holds experts, computes them, obeys the directory.

Run by the Serve deployment (``moe_serving.serve.experts``) and, as a plain process, by tests. Everything here may be
called from any thread; nothing but ``probe``, ``drain`` and ``stop`` waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from moe_contract.applications import ModelArgs, ShardConfig
from moe_serving.checkpoint import Checkpoint
from moe_serving.checkpoint.locality import is_local
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.device import memory_of, resolve_device
from moe_serving.errors import MoEServingError
from moe_serving.experts.compute import answer_compute
from moe_serving.experts.description import ExpertKey, LoadOrder, ShardDescription, ShardIdentity
from moe_serving.experts.errors import OtherIncarnationError, ShardNotReadyError
from moe_serving.experts.examiner import Examiner
from moe_serving.experts.files import Bring, ExpertFiles
from moe_serving.experts.loader import ExpertLoader
from moe_serving.experts.messages import FP8_ROWS, MOST_VALUES
from moe_serving.experts.peers import Peers
from moe_serving.experts.pieces import answer_doubt, answer_fetch
from moe_serving.experts.pool import ExpertPool
from moe_serving.experts.server import ExpertServer
from moe_serving.faults import FaultPoint, reached
from moe_serving.fetching.fetch import bring, local_args, renew_outline
from moe_serving.fp8.errors import Fp8Error
from moe_serving.fp8.rows import why_not
from moe_serving.fp8.weights import PackingReader
from moe_serving.threads import SupervisedThread, said
from moe_serving.wire.blocking import Connection
from moe_serving.wire.endpoint import Endpoint
from moe_serving.wire.errors import WireError
from moe_serving.wire.kinds import ExpertKind
from moe_serving.wire.transport import Message

MAX_REQUEST_BYTES = 4 * MOST_VALUES
"""As float32; ids and weights of their pairs are among them."""
OPEN_RETRY_SECONDS = 2.0
"""Pause before a checkpoint that could not be opened is tried again: it may still be on its way to this node."""
REOPEN_SECONDS = 10.0
"""For what is under way in a shard that opens its checkpoint anew, for each of its threads."""
BACKGROUND = frozenset({ExpertKind.FETCH, ExpertKind.DOUBT})
"""What other shards want, which gives way to attention."""
QUIET_SECONDS = 1.0
"""A layer takes milliseconds: a shard that was not asked for so long is not needed by any answer under way."""

logger = logging.getLogger(__name__)


class Shard:
    """See the module.

    Args:
        changed: called, on any thread, after every change of what ``describe`` says, but of ``counts``.
    """

    def __init__(
        self,
        identity: ShardIdentity,
        model: ModelArgs,
        config: ShardConfig,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._identity = identity
        self._changed = changed
        self._model = model
        self._config = config
        self._open: _OpenShard | None = None
        self._problem: str | None = None
        # A digest to be looked for, or None to wake up and stop.
        self._doubts: queue.Queue[str | None] = queue.Queue(maxsize=1)
        self._stopping = threading.Event()
        self._opener = SupervisedThread("shard-opener", self._keep_opening)

    def start(self) -> None:
        """Open the checkpoint in the background; a checkpoint that cannot be opened becomes ``problem``."""
        self._opener.start()

    def configure(self, config: ShardConfig) -> None:
        """Change how much may be held, and how fast it may come; experts above a smaller bound stay until the directory
        frees them.
        """
        self._config = config
        if (shard := self._open) is not None:
            shard.configure(config)
        self._changed()

    def describe(self) -> ShardDescription:
        """This shard now; see ``ShardDescription``."""
        if (shard := self._open) is None:
            who = self._identity
            return ShardDescription(
                who.index, who.node, who.incarnation, os.getpid(), problem=self._opener.failure or self._problem
            )
        who = shard.identity
        return ShardDescription(
            index=who.index,
            node=who.node,
            incarnation=who.incarnation,
            pid=os.getpid(),
            address=shard.endpoint.address,
            digest=shard.reader.checkpoint.digest,
            near_checkpoint=shard.near_checkpoint and shard.loader.has_all_files,
            capacity=shard.pool.capacity,
            held=shard.pool.held(),
            loading=shard.loader.loading,
            problem=shard.loader.problem,
            counts={**shard.server.counts, **shard.server.worked, **shard.loader.counts, **shard.examiner.counts},
            device=shard.device.type,
            memory=shard.memory,
            fetched=shard.loader.fetched,
            weights="Checkpoint" if shard.reader.form.unpacked is None else "FP8",
        )

    def assign(self, incarnation: str, load: Sequence[LoadOrder], free: Sequence[ExpertKey]) -> None:
        """Free some experts at once and load others in the background, in place of what was to be loaded so far.

        Raises:
            OtherIncarnationError: the order was meant for an earlier process.
            ShardNotReadyError: the checkpoint is not open.
        """
        if incarnation != self._identity.incarnation:
            raise OtherIncarnationError(f"this is {self._identity.incarnation}, the order is for {incarnation}")
        if (shard := self._open) is None:
            raise ShardNotReadyError(self._problem or "the checkpoint is being opened")
        for layer, expert in free:
            shard.pool.free(layer, expert)
            reached(FaultPoint.SHARD_FREED)
        shard.loader.replace_queue(load)
        reached(FaultPoint.SHARD_TOLD)

    def look_again(self, incarnation: str, digest: str) -> None:
        """Look, in the background, whether the model's files are those of the checkpoint of ``digest`` by now: they
        were changed under this shard, or who keeps them had told of other ones. That one is then opened in place of the
        one that is open, as by another process that holds nothing.

        Raises:
            OtherIncarnationError: it was meant for an earlier process.
        """
        if incarnation != self._identity.incarnation:
            raise OtherIncarnationError(f"this is {self._identity.incarnation}, {incarnation} is to look again")
        with contextlib.suppress(queue.Full):  # it looks already
            self._doubts.put_nowait(digest)

    def probe(self, timeout: float) -> None:
        """Connect as a client would: proves that the listener and the loop behind it live, and that experts are still
        loaded. One still opening passes, and one too busy with requests to answer in time.

        Raises:
            WireError, RuntimeError: it does not serve.
        """
        shard = self._open
        failure = self._opener.failure or (shard and (shard.loader.failure or shard.examiner.failure))
        if failure:
            raise RuntimeError(failure)
        if shard is None:
            return
        if not shard.server.alive:
            raise RuntimeError(shard.server.failure or "the thread that serves experts has ended")
        address, digest = shard.endpoint.address, shard.reader.checkpoint.digest
        node, network, answered = shard.identity.node, self._model.network, shard.server.counts["requests"]
        try:
            Connection.connect(
                address, digest, "probe", node=node, network=network, max_body=0, timeout=timeout
            ).close()
        except WireError:
            if shard.server.counts["requests"] == answered:
                raise

    def drain(self, timeout: float) -> None:
        """Go on answering until nobody has asked for ``QUIET_SECONDS``, for ``timeout`` seconds at most."""
        end, before = time.monotonic() + timeout, None
        while (shard := self._open) is not None and time.monotonic() < end:
            answered = shard.server.counts["requests"]
            if answered == before:
                return
            before = answered
            time.sleep(QUIET_SECONDS)

    def stop(self, timeout: float) -> None:
        """Finish the request in work, then close all connections and end the threads."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):
            self._doubts.put_nowait(None)
        self._opener.join(timeout)
        if self._open is not None:
            self._open.stop(timeout)

    def _keep_opening(self) -> None:
        self._open_model()
        while not self._stopping.is_set():
            digest = self._doubts.get()
            if digest is not None and self._is_put_right(digest):
                self._open_anew()

    def _is_put_right(self, digest: str) -> bool:
        """Whether the files are those of a checkpoint that is another one than is open."""
        if self._open is None or self._open.reader.checkpoint.digest == digest:
            return False
        try:
            renew_outline(self._model.path)
            found = Checkpoint.open(local_args(self._model).path).digest
        except Exception as error:  # noqa: BLE001 - what is open goes on, and it is looked at again
            logger.warning("shard %d looked at its files again, in vain: %s", self._identity.index, said(error))
            return False
        return found == digest

    def _open_anew(self) -> None:
        logger.warning("shard %d opens %s anew: its files are others now", self._identity.index, self._model.path)
        self._close()
        # Whoever knows an incarnation takes it for one at one address that has lost nothing.
        self._identity = ShardIdentity(self._identity.index, self._identity.node, self._identity.host)
        self._changed()
        self._open_model()

    def _close(self) -> None:
        """And keep nothing of it: what it held takes the memory that is needed again."""
        if (shard := self._open) is not None:
            self._open = self._problem = None
            shard.stop(REOPEN_SECONDS)

    def _open_model(self) -> None:
        while not self._stopping.is_set():
            try:
                model = local_args(self._model)
                self._open = _OpenShard.open(
                    self._identity, model, self._config, self._changed, partial(bring, self._model.path)
                )
            except Exception as error:
                foreseen = isinstance(error, OSError | MoEServingError)
                self._problem = said(error)
                logger.warning(
                    "shard %d cannot open %s: %s",
                    self._identity.index,
                    self._model.path,
                    self._problem,
                    exc_info=None if foreseen else error,
                )
                self._changed()
                self._stopping.wait(OPEN_RETRY_SECONDS)
                continue
            self._open.configure(self._config)  # it may have changed meanwhile
            self._changed()
            return


@dataclass(frozen=True, slots=True)
class _OpenShard:
    """What a shard consists of once its checkpoint is open."""

    identity: ShardIdentity
    reader: ExpertReader
    pool: ExpertPool
    loader: ExpertLoader
    examiner: Examiner
    endpoint: Endpoint
    server: ExpertServer
    near_checkpoint: bool
    device: torch.device
    memory: int

    @classmethod
    def open(
        cls, identity: ShardIdentity, model: ModelArgs, config: ShardConfig, changed: Callable[[], None], have: Bring
    ) -> _OpenShard:
        """``have``: fetches files of the model, which is open already in the directory that ``model`` names."""
        device = resolve_device(model.device, identity.index)
        reader = _reader(model, device)
        checkpoint = reader.checkpoint
        pool = ExpertPool(len(checkpoint.config.moe_layers), checkpoint.config.experts, reader.form, device)

        examiner = Examiner(pool, changed)

        def answer(message: Message) -> Message:
            match message.kind:
                case ExpertKind.FETCH:
                    return answer_fetch(pool, message)
                case ExpertKind.DOUBT:
                    return answer_doubt(examiner.doubt, message)
                case _:
                    return answer_compute(pool, message, device)

        endpoint = Endpoint.open(identity.node, identity.host, model.network)
        features = () if why_not(torch.device("cpu")) else (FP8_ROWS,)
        server = ExpertServer(endpoint, checkpoint.digest, answer, MAX_REQUEST_BYTES, BACKGROUND, features)
        name = f"shard {identity.index}"
        peers = Peers(checkpoint.digest, name, identity.node, model.network, reader.form, device)
        loader = ExpertLoader(reader, pool, peers, ExpertFiles(checkpoint, have), changed)
        opened = cls(
            identity, reader, pool, loader, examiner, endpoint, server, is_local(model.path), device, memory_of(device)
        )
        opened.configure(config)
        opened.loader.start()
        opened.examiner.start()
        opened.server.start()
        return opened

    def stop(self, timeout: float) -> None:
        """Finish the request in work, then close all connections and end the threads."""
        self.server.stop(timeout)
        self.loader.stop(timeout)
        self.examiner.stop(timeout)

    def configure(self, config: ShardConfig) -> None:
        self.loader.set_rate(config.max_bytes_per_second)
        layers = len(self.reader.checkpoint.config.moe_layers)
        self.pool.capacity = layers * config.slots_per_shard + config.spare_slots


def _reader(model: ModelArgs, device: torch.device) -> ExpertReader:
    """
    Raises:
        Fp8Error: FP8 is asked for where it cannot be had.
        ModelError: the checkpoint cannot be served.
    """
    if model.weights != "FP8":
        return ExpertReader(model.path, model.dtype, str(device))
    if model.verify:
        raise Fp8Error("weights FP8: verify compares each layer with the checkpoint bit for bit; take one away")
    if (why := why_not(device)) is not None:
        raise Fp8Error(f"weights FP8: {why}; set weights to Checkpoint, or device to one that has it")
    return PackingReader(model.path, model.dtype, str(device))
