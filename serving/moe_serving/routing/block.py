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


class Block:
    """The rows of some steps, all routed by one table. A row's pairs of all layers stand at the same place.

    Attributes:
        ids: int16 ``[layers, rows, k]``, the experts chosen; ``NO_EXPERT`` in a layer that did not come to it.
        gates: float32 like ``ids``, their weights.
        choice: int16 like ``ids``, positions in the table of the shards asked first; ``NOBODY`` where there was none.
        opened: monotonic seconds.
        more: what was asked again, after the choice.
    """

    __slots__ = ("_begin", "_end", "_layer", "choice", "gates", "ids", "more", "opened", "table")

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

    def count(self, home: str) -> Window:
        """What all of it sums up to.

        Args:
            home: the node that rows start on.
        """
        window = Window.of(self.table)
        experts = window.load.shape[1]
        for layer in range(len(self.ids)):
            ids = self.ids[layer, : self._end]
            window.load[layer] = np.bincount(ids.ravel() - NO_EXPERT, minlength=experts + 1)[1:]
            window.rows[layer] = np.count_nonzero(ids[:, 0] != NO_EXPERT)
            count_choice(window, self.table, layer, self.choice[layer, : self._end], home)
        if self.more is not None:
            window.add(self.more)
        return window


def count_choice(window: Window, table: RoutingTable, layer: int, choice: NDArray[np.integer], home: str) -> None:
    """Add the shards and nodes that rows of ``layer`` visit, by positions ``[rows, k]`` in the table."""
    shards, nodes = len(table.shards), len(table.nodes)
    indices = table.indices[:-1]
    rows = np.arange(len(choice))[:, None]
    window.pairs[layer, indices] += np.bincount(choice.ravel() - NOBODY, minlength=shards + 1)[1:]
    at_shard = np.zeros((len(choice), shards + 1), dtype=bool)
    at_shard[rows, choice] = True
    window.visits[layer, indices] += at_shard[:, :shards].sum(axis=0)
    at_node = np.zeros((len(choice), nodes + 1), dtype=bool)
    at_node[rows, np.append(table.node_index, nodes)[choice]] = True
    if home in table.nodes:
        at_node[:, table.nodes.index(home)] = False
    window.remote[layer] += np.count_nonzero(at_node[:, :nodes])
