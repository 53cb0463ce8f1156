"""Rows as they were routed, as arrays of a fixed size: written by the engine's thread, counted by another.

A step writes a few values per layer and counts nothing; what they sum up to is computed for a thousand rows at once.
"""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from moe_placement.dispatch import NO_EXPERT, NOBODY
from moe_serving.routing.table import RoutingTable
from moe_serving.routing.window import Window

ROWS = 1024
"""Rows of a block: 58 layers of top-8 take 4 MB."""
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
    """

    __slots__ = ("_begin", "_distinct", "_end", "_layer", "choice", "gates", "ids", "more", "opened", "table")

    def __init__(self, table: RoutingTable, top_k: int, least_rows: int) -> None:
        shape = (table.held.shape[0], max(ROWS, least_rows), top_k)
        self.table = table
        self.ids: NDArray[np.int16] = np.full(shape, NO_EXPERT, dtype=np.int16)
        self.gates: NDArray[np.float32] = np.zeros(shape, dtype=np.float32)
        self.choice: NDArray[np.int16] = np.full(shape, NOBODY, dtype=np.int16)
        self.opened = time.monotonic()
        self.more: Window | None = None
        self._begin = self._end = 0
        self._layer = -1
        self._distinct = 0, 0

    @property
    def whole(self) -> int:
        """Rows before the step that is under way; one that came to an end before its last layer is over as well, once
        another has begun."""
        return self._end if self._layer == len(self.ids) - 1 else self._begin

    @property
    def has_counts(self) -> bool:
        """Whether there is anything to be told."""
        return self.whole > 0 or self.more is not None

    def has_room(self, layer: int, rows: int) -> bool:
        return not self._begins_step(layer, rows) or self._end + rows <= self.ids.shape[1]

    def span(self, layer: int, rows: int) -> slice:
        """Where the rows of ``layer`` go, if there is room for them."""
        if self._begins_step(layer, rows):
            self._begin, self._end = self._end, self._end + rows
        self._layer = layer
        return slice(self._begin, self._end)

    def note_distinct(self, chosen: int, touched: int) -> None:
        """Experts of a layer in a step, see ``Window``."""
        self._distinct = self._distinct[0] + chosen, self._distinct[1] + touched

    def _begins_step(self, layer: int, rows: int) -> bool:
        return layer <= self._layer or rows != self._end - self._begin

    def split(self) -> Block | None:
        """Leave only what is whole here; the step under way goes on in the block returned, None where there is none."""
        begin, end, rows = self.whole, self._end, self._end - self.whole
        self._end = begin
        if rows == 0:
            return None
        rest = Block(self.table, self.ids.shape[2], rows)
        for mine, its in ((self.ids, rest.ids), (self.gates, rest.gates), (self.choice, rest.choice)):
            its[:, :rows] = mine[:, begin:end]
        rest._end, rest._layer = rows, self._layer
        return rest

    def sets(self) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
        """Ids and gates ``[rows, layers, k]`` of the rows that came through all layers with gates that are numbers.

        A row that overflowed fails by itself, in the engine; it says nothing of the traffic.
        """
        ids, gates = self.ids[:, : self._end], self.gates[:, : self._end]
        whole = (ids[:, :, 0] != NO_EXPERT).all(axis=0) & np.isfinite(gates).all(axis=(0, 2))
        return ids[:, whole].swapaxes(0, 1), gates[:, whole].swapaxes(0, 1)

    def count(self, home: str) -> Window:
        """What all of it sums up to.

        Args:
            home: the node that rows start on.
        """
        window = Window.of(self.table)
        ids, choice = self.ids[:, : self._end], self.choice[:, : self._end]
        layers, experts = window.load.shape
        cells = np.arange(0, layers * (experts + 1), experts + 1)[:, None, None] + (ids - NO_EXPERT)
        counts = np.bincount(cells.ravel(), minlength=layers * (experts + 1))
        window.load[:] = counts.reshape(layers, experts + 1)[:, 1:]
        window.rows[:] = np.count_nonzero(ids[:, :, 0] != NO_EXPERT, axis=1)
        window.skipped = int(window.rows.sum()) * ids.shape[2] - int(window.load.sum())
        window.chosen, window.touched = self._distinct
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
