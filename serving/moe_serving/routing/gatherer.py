"""What a replica's rows choose, gathered into the brain's statistics: for whoever plans, and never in a step.

A replica keeps the statistics of all its traffic, of which the older counts less, and hands them, packed, to the
directory each time a window ends. So when this process dies, its last window is lost; when the directory does, nothing
is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_contract.applications import STATISTICS_SECONDS
from moe_placement.statistics import RoutingStatistics, encode_statistics

WINDOW_SECONDS, LEAST_WINDOW_SECONDS = 10.0, 2.0
"""A window of statistics, where looks at them are far apart, and where they are not."""
WINDOWS_OF_LOOK = 5
"""In the time between two looks: what one of them misses is a fifth of what came since the last, and a second."""
MOST_TIME = 0.005
"""Part of the time that packing may take of a processor: with 58 layers of 256 experts a window lasts a minute, however
often they are looked at."""
HALF_LIFE_LOOKS = 2.0
"""After so many looks what was counted weighs half as much as what comes. Out of a full sample of 4,096 sets 1,200 are
then of the time since the last look, and 848 of that before: what two looks of another traffic are planned from, and
judged by."""
LEAST_WEIGHT = 1e-30
"""What is worth less than this part is nothing beside anything that came since."""
BATCH_ROWS = 4096
"""Rows are counted when there are so many of them, or a window ends: the cost is mostly per call."""
MOST_CELLS = 1 << 24
"""Layers x experts^2 of which statistics are gathered, such as 61 x 512^2: pairs and transitions have a float for each,
and packed they take up to 64 MiB."""
_MOST_HALF = np.finfo(np.float16).max

logger = logging.getLogger(__name__)

Sets = tuple[NDArray[np.int16], NDArray[np.float32]]
"""Whole expert sets, ids and gate weights ``[rows, layers, k]``."""


@dataclass(frozen=True, slots=True)
class Gathered:
    """Attributes:
    number: of the window that it ends with.
    at: when that was, in seconds since the epoch.
    packed: ``encode_statistics``.
    half_life: seconds after which they weigh half as much as what is told later.
    """

    number: int
    at: float
    packed: bytes
    half_life: float


def half_life_of(interval: float) -> float:
    """Seconds, of statistics that are looked at once in ``interval`` seconds."""
    return HALF_LIFE_LOOKS * interval


def weight_after(seconds: float, half_life: float) -> float:
    """What counts weigh that are so old, beside new ones; never less than ``LEAST_WEIGHT``."""
    return float(max(0.5 ** (max(0.0, seconds) / half_life), LEAST_WEIGHT))


def half_floats(gates: NDArray[np.float32]) -> NDArray[np.float16]:
    """Gate weights as they are kept; those beyond are cut."""
    return np.clip(gates, -_MOST_HALF, _MOST_HALF).astype(np.float16)


class Gatherer:
    """For any thread.

    Args:
        layers, experts: of the model.
        clock: seconds since the epoch.
    """

    def __init__(self, layers: int, experts: int, clock: Callable[[], float] = time.time) -> None:
        self._experts = experts
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Sets] = []
        self._rows = 0
        self._statistics: RoutingStatistics | None = None
        self._counted_at = self._due = 0.0
        self._fresh = False
        self._windows = 0
        self._interval = STATISTICS_SECONDS
        self._is_too_large = layers * experts**2 > MOST_CELLS
        if self._is_too_large:
            logger.warning("no statistics are gathered of %d layers of %d experts: too much memory", layers, experts)

    def configure(self, interval: float) -> None:
        """From now on they are looked at once in so many seconds."""
        self._interval = interval

    @property
    def half_life(self) -> float:
        """Seconds after which what was counted weighs half as much as what comes."""
        return half_life_of(self._interval)

    def add(self, sets: Sets) -> None:
        """Take the sets of some rows."""
        if self._is_too_large or not len(sets[0]):
            return
        with self._lock:
            if not self._fresh:
                self._fresh = True
                self._due = max(self._due, self._clock() + self._window_seconds)
            self._waiting.append(sets)
            self._rows += len(sets[0])
            if self._rows >= BATCH_ROWS:
                self._count()

    @property
    def has_window(self) -> bool:
        """Whether a window with traffic has ended."""
        return self._fresh and self._clock() >= self._due

    def take(self) -> Gathered | None:
        """End the window now: all that was gathered so far; None where nothing was."""
        with self._lock:
            began = time.thread_time()
            self._count()
            if self._statistics is None:
                return None
            self._statistics.close_window()
            self._windows += 1
            self._fresh = False
            packed = encode_statistics(self._statistics)
            gathered = Gathered(self._windows, self._counted_at, packed, self.half_life)
            self._due = self._clock() + (time.thread_time() - began) / MOST_TIME
            return gathered

    @property
    def _window_seconds(self) -> float:
        return min(WINDOW_SECONDS, max(LEAST_WINDOW_SECONDS, self._interval / WINDOWS_OF_LOOK))

    def _count(self) -> None:
        if not self._waiting:
            return
        ids, gates = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._rows = [], 0
        now = self._clock()
        if self._statistics is None:
            _, layers, top_k = ids.shape
            self._statistics = RoutingStatistics(layers, self._experts, top_k, window_tokens=None)
        elif now > self._counted_at:
            self._statistics.decay(weight_after(now - self._counted_at, self.half_life))
        self._counted_at = max(now, self._counted_at)
        self._statistics.add(ids, half_floats(gates))
