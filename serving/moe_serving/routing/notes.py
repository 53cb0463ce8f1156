"""What the engine's thread says of its steps, for ``block`` and ``window`` to make sense of later.

A step finds caches full of other things, so what counts is how little is touched: arrays are copied as the bytes that
they are, and nothing else is done with them before those of a few steps are filed at once.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moe_serving.routing.table import RoutingTable


class StepNote:
    """The rows of a step in some layers that follow one another, all routed by one table.

    A step of 2,048 rows in 58 layers of top-8 takes 19 MB, 20 bytes for each pair, until it has ended.

    Attributes:
        rows, top_k: of each layer.
        first: its first layer.
        next: the one after its last.
        end: the one after the model's last.
        copied: for each layer ids, gate weights and choice, as ``Recorder.record`` has them, one after the other.
        chosen, touched: distinct experts of its layers, summed; see ``Window``.
        began: monotonic seconds.
    """

    __slots__ = ("began", "chosen", "copied", "end", "first", "next", "rows", "table", "top_k", "touched")

    def __init__(self, table: RoutingTable, layer: int, rows: int, top_k: int) -> None:
        self.table, self.rows, self.top_k = table, rows, top_k
        self.first = self.next = layer
        self.end = len(table.held)
        self.copied: list[bytes] = []
        self.chosen = self.touched = 0
        self.began = time.monotonic()

    @property
    def is_whole(self) -> bool:
        """Whether it has all layers of the model."""
        return self.first == 0 and self.next == self.end

    @property
    def layers(self) -> slice:
        """Those that it has."""
        return slice(self.first, self.next)


def stack(steps: Sequence[StepNote], kind: int, dtype: type[np.generic]) -> NDArray[Any]:
    """What ``copied`` has of one kind, ``[layers, rows of all, k]``; layers and rows of each step are the same."""
    of = steps[0]
    copied = b"".join(piece for step in steps for piece in step.copied[kind::3])
    stacked = np.frombuffer(copied, dtype).reshape(len(steps), of.next - of.first, of.rows, of.top_k)
    return stacked.swapaxes(0, 1).reshape(of.next - of.first, -1, of.top_k)


class AgainNote:
    """Pairs of a layer that were asked for once more, see ``Recorder.record_again``."""

    __slots__ = ("began", "choice", "failovers", "layer", "rows", "table", "top_k")

    def __init__(self, table: RoutingTable, layer: int, choice: NDArray[np.int64], failovers: int) -> None:
        self.table, self.layer, self.choice, self.failovers = table, layer, choice, failovers
        self.rows, self.top_k = choice.shape
        self.began = time.monotonic()


class EndNote(NamedTuple):
    """A step has ended, see ``StepCounts.note``."""

    rows: int
    tokens: int
    seconds: float
    context: int
    since_last: float
