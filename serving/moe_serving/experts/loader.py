"""Fills a store in a thread of its own, so that reading a checkpoint never delays an answer."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.errors import MoEServingError
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.errors import StoreFullError
from moe_serving.experts.store import ExpertStore
from moe_serving.threads import SupervisedThread, in_words

RETRY_SECONDS = 1.0
"""Pause after a failed read: a network file system may come back."""

logger = logging.getLogger(__name__)


class ExpertLoader:
    """Loads what is in its queue, in order, while the store has room; one that cannot be read lets the others pass.

    Args:
        changed: called, on any thread, after every change of the queue, of what is held, or of ``problem``.
    """

    def __init__(self, reader: ExpertReader, store: ExpertStore, changed: Callable[[], None] = lambda: None) -> None:
        self._reader = reader
        self._store = store
        self._tell = changed
        self._queue: tuple[ExpertKey, ...] = ()
        # Of what is in the queue: why it could not be read, and how often it was tried.
        self._failures: dict[ExpertKey, str] = {}
        self._tries: Counter[ExpertKey] = Counter()
        self._full: str | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = SupervisedThread("expert-loader", self._run)

    def start(self) -> None:
        self._thread.start()

    def replace_queue(self, wanted: Sequence[ExpertKey]) -> None:
        """Load ``wanted`` and nothing else; an expert that is being read now is read to its end."""
        with self._changed:
            self._queue = tuple(wanted)
            for gone in self._failures.keys() - set(wanted):
                del self._failures[gone], self._tries[gone]
            if not wanted:
                self._full = None
            self._changed.notify()
        self._tell()

    @property
    def queue(self) -> tuple[ExpertKey, ...]:
        """What is still to be loaded, what is being read included."""
        return self._queue

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
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._queue)
                if self._stopping:
                    return
                layer, expert = self._next()
            self._load(layer, expert)

    def _next(self) -> ExpertKey:
        """The first of those tried least."""
        return min(self._queue, key=self._tries.__getitem__)

    def _load(self, layer: int, expert: int) -> None:
        try:
            if self._store.get(layer, expert) is None:
                self._store.check_room()
                self._store.add(layer, expert, self._reader.read(layer, expert))
        except StoreFullError as error:
            self._note_full(f"expert {expert} of layer {layer} cannot be loaded: {error}")
        except (OSError, MoEServingError) as error:
            self._note_failure((layer, expert), f"expert {expert} of layer {layer} cannot be loaded: {error}")
        except Exception as error:  # noqa: BLE001 - out of memory, torch's own, a fault of ours: the others still come
            self._note_failure((layer, expert), f"expert {expert} of layer {layer} cannot be loaded: {in_words(error)}")
        else:
            self._note_loaded((layer, expert))

    def _note_loaded(self, loaded: ExpertKey) -> None:
        with self._changed:
            self._full = None
            self._failures.pop(loaded, None)
            self._tries.pop(loaded, None)
            self._queue = tuple(key for key in self._queue if key != loaded)
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
        return self._stopping or not self._queue or self._next() not in self._failures
