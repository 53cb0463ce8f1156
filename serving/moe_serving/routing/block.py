"""Rows as they were routed, as arrays of a fixed size: what they sum up to is computed for a thousand at once."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NO_EXPERT, NOBODY
from moe_serving.routing.notes import AgainNote, StepNote, stack
from moe_serving.routing.steps import StepCounts
from moe_serving.routing.table import RoutingTable
from moe_serving.routing.window import Window

ROWS = 1024
"""Rows of a block: 58 layers of top-8 take 4 MB."""
MOST_UNREAD = 128
"""Rows of steps that are kept as they were noted, 20 bytes for each pair, until they are read at once."""
_MOST_MARKS = 1 << 22
"""Rows x shards that are looked at together."""


class Block:
    """The rows of some steps, all routed by one table. A row's pairs of all layers stand at the same place.

    Attributes:
        ids: int16 ``[layers, rows, k]``, the experts that are computed; ``NO_EXPERT`` for what is left out of them, and
            for all, the first among them, in a layer that did not come to it.
        gates: float32 like ``ids``, their weights.
        choice: int16 like ``ids``, positions in the table of the shards asked first; ``NOBODY`` where there was none.
        opened: monotonic seconds.
        more: what was asked again, after the choice.
        steps: of the engine, those that are told with these rows.
    """

    def __init__(self, table: RoutingTable, top_k: int, least_rows: int, opened: float) -> None:
        self._capacity = max(ROWS, least_rows)
        shape = (len(table.held), self._capacity, top_k)
        self.table = table
        self.ids: NDArray[np.int16] = np.empty(shape, dtype=np.int16)
        self.gates: NDArray[np.float32] = np.empty(shape, dtype=np.float32)
        self.choice: NDArray[np.int16] = np.empty(shape, dtype=np.int16)
        self.opened = opened
        self.more: Window | None = None
        self.steps = StepCounts()
        self._unread: list[StepNote] = []
        self._read = self._end = self._chosen = self._touched = 0

    @property
    def rows(self) -> int:
        return self._end

    def has_room(self, rows: int) -> bool:
        return self._end + rows <= self._capacity

    def put(self, step: StepNote) -> None:
        """Take the rows of a step, if there is room for them."""
        self._unread.append(step)
        self._end += step.rows
        if self._end - self._read >= MOST_UNREAD:
            self._read_all()

    def _read_all(self) -> None:
        """Those that are alike at once: most of what it takes is per call."""
        for _, alike in groupby(self._unread, lambda step: (step.first, step.next, step.rows)):
            steps = list(alike)
            step, begin = steps[0], self._read
            self._read += len(steps) * step.rows
            rows = slice(begin, self._read)
            if not step.is_whole:
                self.ids[:, rows], self.gates[:, rows], self.choice[:, rows] = NO_EXPERT, 0.0, NOBODY
            self.ids[step.layers, rows] = stack(steps, 0, np.int64)
            self.gates[step.layers, rows] = stack(steps, 1, np.float32)
            self.choice[step.layers, rows] = stack(steps, 2, np.int64)
            self._chosen += sum(each.chosen for each in steps)
            self._touched += sum(each.touched for each in steps)
        self._unread = []

    def put_again(self, note: AgainNote, home: str) -> None:
        """Count what was asked for once more; ``home`` as of ``count``."""
        if self.more is None:
            self.more = Window.of(self.table)
        count_choice(self.more, self.table, note.layer, note.choice[None], home)
        self.more.failovers += note.failovers

    def sets(self) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Ids and gates ``[rows, layers, k]`` of the rows that came through all layers with gates that are numbers.

        A row that overflowed fails by itself, in the engine; it says nothing of the traffic.
        """
        self._read_all()
        ids, gates = self.ids[:, : self._end], self.gates[:, : self._end]
        whole = (ids[:, :, 0] != NO_EXPERT).all(axis=0) & np.isfinite(gates).all(axis=(0, 2))
        return ids[:, whole].swapaxes(0, 1), gates[:, whole].swapaxes(0, 1)

    def count(self, home: str) -> Window:
        """What all of it sums up to.

        Args:
            home: the node that rows start on.
        """
        self._read_all()
        window = Window.of(self.table)
        ids, choice = self.ids[:, : self._end], self.choice[:, : self._end]
        layers, experts = window.load.shape
        cells = np.arange(0, layers * (experts + 1), experts + 1)[:, None, None] + (ids - NO_EXPERT)
        counts = np.bincount(cells.ravel(), minlength=layers * (experts + 1))
        window.load[:] = counts.reshape(layers, experts + 1)[:, 1:]
        window.rows[:] = np.count_nonzero(ids[:, :, 0] != NO_EXPERT, axis=1)
        window.skipped = int(window.rows.sum()) * ids.shape[2] - int(window.load.sum())
        window.chosen, window.touched, window.steps = self._chosen, self._touched, self.steps
        at_once = max(1, _MOST_MARKS // max(1, self._end * (len(self.table.shards) + 1)))
        for begin in range(0, layers, at_once):
            count_choice(window, self.table, begin, choice[begin : begin + at_once], home)
        if self.more is not None:
            window.add(self.more)
        return window


def count_choice(window: Window, table: RoutingTable, layer: int, choice: NDArray[np.integer], home: str) -> None:
    """Add the shards and nodes that rows visit, by positions ``[layers, rows, k]`` in the table, from ``layer`` on."""
    layers, shards, nodes = len(choice), len(table.shards), len(table.nodes)
    mine = slice(layer, layer + layers)
    cells = np.arange(0, layers * (shards + 1), shards + 1)[:, None, None] + (choice - NOBODY)
    pairs = np.bincount(cells.ravel(), minlength=layers * (shards + 1)).reshape(layers, shards + 1)
    indices = table.indices[:-1]
    window.pairs[mine, indices] += pairs[:, 1:]
    window.visits[mine, indices] += np.count_nonzero(_marks(choice, shards), axis=1)
    if set(table.nodes) <= {home}:
        return
    at_node = _marks(np.append(table.node_index, nodes)[choice], nodes)
    if home in table.nodes:
        at_node[:, :, table.nodes.index(home)] = False
    window.remote[mine] += np.count_nonzero(at_node, axis=(1, 2))


def _marks(places: NDArray[np.integer], count: int) -> NDArray[np.bool_]:
    """bool ``[layers, rows, count]``: which of ``count`` places each row has; one beyond them, or -1, is none."""
    layers, rows, top_k = places.shape
    marks = np.zeros((layers * rows, count + 1), dtype=bool)
    marks[np.arange(layers * rows)[:, None], places.reshape(-1, top_k)] = True
    return marks.reshape(layers, rows, count + 1)[:, :, :count]
