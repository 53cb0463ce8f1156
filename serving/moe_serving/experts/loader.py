"""Fills a store in a thread of its own, so that reading a checkpoint never delays an answer."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from safetensors import SafetensorError

from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.errors import MoEServingError
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.store import ExpertStore

RETRY_SECONDS = 1.0
"""Pause after a failed read: a network file system may come back."""

logger = logging.getLogger(__name__)


class ExpertLoader:
    """Loads what is in its queue, in order, while the store has room."""

    def __init__(self, reader: ExpertReader, store: ExpertStore) -> None:
        self._reader = reader
        self._store = store
        self._queue: tuple[ExpertKey, ...] = ()
        self._problem: str | None = None
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="expert-loader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def replace_queue(self, wanted: Sequence[ExpertKey]) -> None:
        """Load ``wanted`` and nothing else; an expert that is being read now is read to its end."""
        with self._changed:
            self._queue = tuple(wanted)
            self._changed.notify()

    @property
    def queue(self) -> tuple[ExpertKey, ...]:
        """What is still to be loaded, what is being read included."""
        return self._queue

    @property
    def problem(self) -> str | None:
        """Why the last read failed; None after one that did not."""
        return self._problem

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
                layer, expert = self._queue[0]
            self._load(layer, expert)

    def _load(self, layer: int, expert: int) -> None:
        try:
            if self._store.get(layer, expert) is None:
                self._store.check_room()
                self._store.add(layer, expert, self._reader.read(layer, expert))
            self._problem = None
        except (OSError, SafetensorError, RuntimeError, MemoryError, MoEServingError) as error:
            logger.warning("cannot load expert %d of layer %d: %s", expert, layer, error)
            self._problem = f"expert {expert} of layer {layer} cannot be loaded: {error}"
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, RETRY_SECONDS)
            return
        with self._changed:
            self._queue = tuple(key for key in self._queue if key != (layer, expert))
