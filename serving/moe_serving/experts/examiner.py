"""Looks again at copies that other shards could not use: bytes in memory may change, and nobody else would see it.

A copy whose bytes do not fit the digest any more that they had when it was published is freed at once. Until it is
loaded anew, since the directory sees that it is missing, whoever asks is told that it is not held, and asks elsewhere
or waits: both are better than an answer that is wrong.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable

from moe_serving.checkpoint.reader import digest_of
from moe_serving.experts.description import ExpertKey
from moe_serving.experts.pool import ExpertPool
from moe_serving.threads import SupervisedThread

logger = logging.getLogger(__name__)


class Examiner:
    """In a thread of its own: an expert may take as long as half a second.

    Args:
        changed: called, on that thread, after a copy was freed.
    """

    def __init__(self, pool: ExpertPool, changed: Callable[[], None] = lambda: None) -> None:
        self.counts: Counter[str] = Counter()
        """Copies that were ``damaged``."""
        self._pool = pool
        self._tell = changed
        self._doubted: set[ExpertKey] = set()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = SupervisedThread("expert-examiner", self._run)

    def start(self) -> None:
        self._thread.start()

    @property
    def failure(self) -> str | None:
        """Why nothing will ever be looked at again."""
        return self._thread.failure

    def doubt(self, key: ExpertKey) -> None:
        """Look at this copy again, if it is held; any thread may call it."""
        if key not in self._pool:
            return
        with self._changed:
            self._doubted.add(key)
            self._changed.notify()

    def stop(self, timeout: float) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        while (key := self._next()) is not None:
            self._examine(key)

    def _next(self) -> ExpertKey | None:
        """Waits for one; None once it is to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or self._doubted)
            return None if self._stopping else self._doubted.pop()

    def _examine(self, key: ExpertKey) -> None:
        layer, expert = key
        with self._pool.pinned(layer, [expert]) as slots:
            slot = slots.get(expert)
            if slot is None or digest_of(slot.weights) == slot.digest or not self._pool.withdraw(slot):
                return
        self.counts["damaged"] += 1
        logger.error(
            "the copy of expert %d of layer %d has changed in memory since it was loaded, and is given up: look at the "
            "memory of this node",
            expert,
            layer,
        )
        self._tell()
