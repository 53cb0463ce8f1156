"""Recorded traffic as it would come: some documents at a time, a token of each in a step, at a steady rate, and another
document in the place of each that ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from benchmarks.rebalancing.replay import Replay
from moe_placement.traces import Trace

Ids = NDArray[np.integer]
PROMPTS = 64
"""Side by side."""


def steps(trace: Trace, seed: int) -> Iterator[Ids]:
    """``[PROMPTS, layers, k]`` for ever: so many prompts side by side, each at another of its tokens.

    Prompts are as long as the shortest.
    """
    starts = np.flatnonzero(np.diff(trace.prompt, prepend=-1))
    length = int(np.diff(starts, append=len(trace)).min())
    random = np.random.default_rng(seed)
    coming = _again_and_again(starts, random)
    begin, at = np.array(list(islice(coming, PROMPTS))), random.integers(length, size=PROMPTS)
    while True:
        yield trace.ids[begin + at]
        at += 1
        for ended in np.flatnonzero(at == length):
            begin[ended], at[ended] = next(coming), 0


def _again_and_again(starts: Ids, random: np.random.Generator) -> Iterator[int]:
    """All of them, in an order that changes each time."""
    while True:
        yield from random.permutation(starts).tolist()


class Sender:
    """Sends steps at ``rows_per_second`` from a thread of its own; a context manager.

    Attributes:
        source: may be changed at any time.
        rows: sent so far.
    """

    def __init__(self, through: Replay, source: Iterator[Ids], rows_per_second: float) -> None:
        self.source = source
        self.rows = 0
        self._through = through
        self._pause = PROMPTS / rows_per_second
        self._stopping = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="sender")

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """
        Raises:
            Exception: what ended the traffic before its time.
        """
        self._stopping.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        due = time.monotonic()
        try:
            while not self._stopping.is_set():
                self._through.send(next(self.source))
                self.rows += PROMPTS
                due = max(due + self._pause, time.monotonic() - self._pause)
                time.sleep(max(0.0, due - time.monotonic()))
        except Exception as failure:  # noqa: BLE001 - raised where the thread is joined
            self._failure = failure
