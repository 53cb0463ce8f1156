"""Fills a pool in a thread of its own, from other shards or the checkpoint, so that this never delays an answer.

An expert is in its slot out of sight until all of it is there and fits its digest. Whatever fails on the way, a peer
that dies, sends something else or nothing, this process too, leaves a slot that is vacant again and a copy that is not
held: the next source is asked, or the directory sees what is missing and orders it anew.

Of a model whose files are fetched as they are needed (``files``) what needs none of them comes first: a file may take
minutes.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection, Sequence

from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.experts.description import CHECKPOINT, ExpertKey, Loading, LoadOrder, Source
from moe_serving.experts.errors import (
    DamagedExpertError,
    NotHeldError,
    PeerRestsError,
    PoolFullError,
    TransferAbandonedError,
)
from moe_serving.experts.files import ExpertFiles
from moe_serving.experts.peers import Peers
from moe_serving.experts.pool import ExpertPool, Reservation
from moe_serving.experts.throttle import TokenBucket
from moe_serving.faults import FaultPoint, reached
from moe_serving.threads import SupervisedThread, said
from moe_serving.wire.errors import ProtocolError, WireError

RETRY_SECONDS = 1.0
"""Pause after a failed read: a network file system may come back."""

logger = logging.getLogger(__name__)


class ExpertLoader:
    """Loads what is in its queue, in order, while the pool has room; one that cannot be had lets the others pass.

    Args:
        peers: reaches other shards.
        files: of the reader's checkpoint.
        changed: called, on any thread, after every change of the queue, of what is held, of ``problem`` or ``fetched``.
    """

    def __init__(
        self,
        reader: ExpertReader,
        pool: ExpertPool,
        peers: Peers,
        files: ExpertFiles,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        """``from_peers`` and ``from_checkpoint`` in bytes, and transfers ``refused`` because of what a peer sent."""
        self._reader = reader
        self._pool = pool
        self._peers = peers
        self._files = files
        self._tell = changed
        self._budget = TokenBucket()
        self._queue: dict[ExpertKey, LoadOrder] = {}
        # Of what is in the queue: what went wrong with it last, and how often it was tried.
        self._failures: dict[ExpertKey, str] = {}
        self._tries: Counter[ExpertKey] = Counter()
        # What needs files that are not there, and so comes after the rest.
        self._later: Collection[ExpertKey] = ()
        self._full: str | None = None
        self._on_its_way: ExpertKey | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = SupervisedThread("expert-loader", self._run)

    def start(self) -> None:
        self._thread.start()

    def set_rate(self, bytes_per_second: int) -> None:
        """Bound what comes from anywhere, but what is urgent; 0 for no bound. What waits for its turn at another rate
        waits no more.
        """
        with self._changed:
            self._budget.rate = bytes_per_second
            self._changed.notify()

    def replace_queue(self, wanted: Sequence[LoadOrder]) -> None:
        """Load ``wanted`` and nothing else; what is on its way and not among it is given up."""
        with self._changed:
            self._queue = {order.key: order for order in wanted}
            self._look_for_files(self._read_first())
            for gone in self._failures.keys() - self._queue.keys():
                del self._failures[gone], self._tries[gone]
            if not wanted:
                self._full = None
            self._changed.notify()
        self._tell()

    @property
    def loading(self) -> Loading:
        """What is still to be loaded, of one moment."""
        with self._changed:
            return Loading.of(self._queue, self._on_its_way)

    @property
    def fetched(self) -> tuple[int, int] | None:
        """Bytes of files on this node, of those that are to be; None while nothing in the queue needs one."""
        with self._changed:
            return self._files.fetched if any(key in self._queue for key in self._later) else None

    @property
    def has_all_files(self) -> bool:
        """Whether the checkpoint is all on this node."""
        return self._files.all_there

    @property
    def problem(self) -> str | None:
        """Why something of the queue is not loaded, if it was tried."""
        with self._changed:
            return self._thread.failure or self._full or next(iter(self._failures.values()), None)

    @property
    def failure(self) -> str | None:
        """Why nothing will ever be loaded again."""
        return self._thread.failure

    def stop(self, timeout: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (order := self._next_order()) is not None:
            self._load(order)
        self._peers.close()

    def _next_order(self) -> LoadOrder | None:
        """Waits for one; None once it is to stop."""
        with self._changed:
            if not self._queue:
                self._peers.close()
            self._changed.wait_for(lambda: self._stopping or self._queue)
            return None if self._stopping else self._next()

    def _next(self) -> LoadOrder:
        """The first of those tried least, and of these of one that needs no file to be fetched."""
        return self._queue[min(self._queue, key=lambda key: (self._tries[key], key in self._later))]

    def _look_for_files(self, keys: Collection[ExpertKey]) -> None:
        """Which of ``keys`` need some."""
        self._later = self._files.lacking(keys)
        if not self._later:
            self._files.fetched = None

    def _read_first(self) -> tuple[ExpertKey, ...]:
        """What is to come from the checkpoint before any shard is asked."""
        return tuple(key for key, order in self._queue.items() if order.sources[0] is CHECKPOINT)

    def _load(self, order: LoadOrder) -> None:
        key, what = order.key, f"expert {order.expert} of layer {order.layer} cannot be loaded"
        try:
            if key not in self._pool:
                self._bring(order)
        except TransferAbandonedError:
            logger.debug("expert %d of layer %d is wanted no more", order.expert, order.layer)
        except PoolFullError as error:
            self._note_full(f"{what}: {error}")
        except Exception as error:  # noqa: BLE001 - out of memory, torch's own, a fault of ours: the others still come
            self._note_failure(key, f"{what}: {said(error)}")
        else:
            self._note_loaded(key)

    def _bring(self, order: LoadOrder) -> None:
        with self._pool.reserve(*order.key) as slot:
            with self._changed:
                self._on_its_way = order.key
            self._tell()
            reached(FaultPoint.SHARD_RESERVED)
            try:
                self._fill(slot, order)
            finally:
                with self._changed:
                    self._on_its_way = None

    def _fill(self, slot: Reservation, order: LoadOrder) -> None:
        """From the first source that gives it.

        Raises:
            TransferAbandonedError: it is wanted no more.
            Exception: none does; the last one's reason.
        """
        last = len(order.sources) - 1
        for place, source in enumerate(order.sources):
            try:
                self._fill_from(source, slot, order)
            except TransferAbandonedError:
                raise
            except Exception as error:
                # Whatever it is: another source may still give it.
                self._note_source(source, order, error)
                if isinstance(error, DamagedExpertError):
                    self._doubt(source, order)
                if place == last:
                    raise
            else:
                return

    def _fill_from(self, source: Source, slot: Reservation, order: LoadOrder) -> None:
        def proceed(size: int) -> None:
            self._proceed(order, size)

        size = self._pool.form.nbytes
        expected: bytes | None = None
        if source is CHECKPOINT:
            self._fetch_files(order)
            proceed(size)
            digest = self._reader.read_into(slot.weights, *order.key)
        else:
            digest, expected = self._peers.fetch_into(slot.weights, source, *order.key, proceed)
        reached(FaultPoint.SHARD_FILLED)
        slot.publish(digest, expected)
        reached(FaultPoint.SHARD_PUBLISHED)
        self.counts["from_checkpoint" if source is CHECKPOINT else "from_peers"] += size

    def _fetch_files(self, order: LoadOrder) -> None:
        """Have the files that an expert is read from.

        Raises:
            TransferAbandonedError: it is wanted no more.
            ModelError: one of them cannot be had.
        """
        if not self._files.lacking([order.key]):
            return
        with self._changed:
            expected = self._read_first()
            self._look_for_files((*expected, order.key))

        def heard(done: int, total: int) -> None:
            self._tell()
            self._proceed(order, 0)

        try:
            self._files.bring(order.key, expected, heard)
        finally:
            with self._changed:
                self._look_for_files(self._read_first())
            self._tell()

    def _doubt(self, source: Source, order: LoadOrder) -> None:
        """Have a peer look again at a copy that came damaged; whoever holds it would go on computing with it."""
        if source is CHECKPOINT:
            return
        try:
            self._peers.doubt(source, *order.key, lambda size: self._proceed(order, size))
        except (WireError, PeerRestsError) as error:
            logger.warning("the shard at %s does not hear that what it sent is damaged: %s", source.in_words, error)

    def _proceed(self, order: LoadOrder, size: int) -> None:
        """Returns once ``size`` bytes may flow.

        Raises:
            TransferAbandonedError: they are wanted no more.
        """
        with self._changed:
            rate, wait = self._budget.rate, self._budget.take(size) if size and not order.urgent else 0.0
            if wait:
                self._changed.wait_for(
                    lambda: self._is_unwanted(order) or self._hurries() or self._budget.rate != rate, wait
                )
            if self._is_unwanted(order):
                raise TransferAbandonedError

    def _is_unwanted(self, order: LoadOrder) -> bool:
        return self._stopping or order.key not in self._queue

    def _hurries(self) -> bool:
        """Whether something urgent waits for what is on its way."""
        return any(order.urgent and key not in self._failures for key, order in self._queue.items())

    def _note_source(self, source: Source, order: LoadOrder, error: Exception) -> None:
        """One source could not give an expert; what it sent may be worse than nothing, and is then told of."""
        where = "the checkpoint" if source is CHECKPOINT else f"the shard at {source.in_words}"
        text = f"expert {order.expert} of layer {order.layer} does not come from {where}: {said(error)}"
        if isinstance(error, NotHeldError):
            logger.debug(text)
            return
        logger.warning(text)
        if isinstance(error, DamagedExpertError | ProtocolError):
            self.counts["refused"] += 1
            with self._changed:
                if order.key in self._queue:
                    self._failures[order.key] = text
            self._tell()

    def _note_loaded(self, loaded: ExpertKey) -> None:
        with self._changed:
            self._full = None
            self._failures.pop(loaded, None)
            self._tries.pop(loaded, None)
            self._queue.pop(loaded, None)
        self._tell()

    def _note_full(self, problem: str) -> None:
        logger.warning(problem)
        with self._changed:
            self._full = problem
        self._tell()
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS)

    def _note_failure(self, failed: ExpertKey, problem: str) -> None:
        """Rests before the next try, unless something is left that was not tried yet."""
        logger.warning(problem)
        with self._changed:
            if failed not in self._queue:
                return
            self._failures[failed] = problem
            self._tries[failed] += 1
        self._tell()
        with self._changed:
            self._changed.wait_for(self._is_called, RETRY_SECONDS)

    def _is_called(self) -> bool:
        return self._stopping or not self._queue or self._next().key not in self._failures
