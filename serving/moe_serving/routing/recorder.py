"""Records what is routed, beside the routing client: the one source of every figure of a placement that is told.

The engine's thread copies ids, gate weights and choices of a layer into a block, while the shards compute; another
thread takes the windows that are over, counts them, and hands whole expert sets on. A window is over when another table
comes into force or ``WINDOW_SECONDS`` have passed. Every row is counted once, by the table that it was routed by, when
its step has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moe_serving.routing.block import Block, count_choice
from moe_serving.routing.gatherer import Sets
from moe_serving.routing.steps import StepCounts
from moe_serving.routing.table import RoutingTable
from moe_serving.routing.window import Window, Windows
from moe_serving.threads import in_words

WINDOW_SECONDS = 1.0
"""A window that has traffic is closed after so long."""
MOST_CLOSED = 4
"""Blocks that wait to be counted. Where nobody takes them, the directory being away, the engine's thread counts one
for each that it fills, and their windows become one."""


logger = logging.getLogger(__name__)


class Recorder:
    """``record``, ``record_again`` and ``note_step`` are for the engine's thread, all else is for another one.

    Args:
        home: the node that rows start on: ours.
        on_sets: gets the expert sets of rows that came through all layers, off the step. What it raises is logged, and
            costs these sets alone.
        clock: monotonic seconds.
    """

    def __init__(
        self, home: str, on_sets: Callable[[Sets], None] = lambda _: None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._home = home
        self._on_sets = on_sets
        self._clock = clock
        self._step_ended = clock()
        self._lock = threading.Lock()
        self._block: Block | None = None
        self._closed: list[Block] = []
        self._counted = Windows()
        self._table: RoutingTable | None = None
        self._steps = StepCounts()

    def record(
        self,
        table: RoutingTable,
        layer: int,
        ids: NDArray[np.int64],
        gates: NDArray[np.float32],
        choice: NDArray[np.int64],
        distinct: tuple[int, int] = (0, 0),
    ) -> None:
        """One layer of a step, when its shards have been asked for the first time.

        Args:
            ids: ``[rows, k]``, the experts; ``NO_EXPERT`` for what is left out.
            gates: ``[rows, k]``, their weights.
            choice: ``[rows, k]``, the shards asked, as positions in the table; ``NOBODY`` for pairs that none is
                asked for yet.
            distinct: see ``LayerWork``.
        """
        rows, top_k = ids.shape
        with self._lock:
            block = self._block_for(table, top_k, rows)
            if not block.has_room(layer, rows):
                block = self._renew(table, top_k, rows)
            span = block.span(layer, rows)
            block.ids[layer, span] = ids
            block.gates[layer, span] = gates
            block.choice[layer, span] = choice
            block.note_distinct(*distinct)

    def record_again(self, table: RoutingTable, layer: int, choice: NDArray[np.int64], failovers: int) -> None:
        """What had to be asked for once more, in ``failovers`` pairs of another shard than at first."""
        with self._lock:
            block = self._block_for(table, choice.shape[1])
            if block.more is None:
                block.more = Window.of(table)
            count_choice(block.more, table, layer, choice[None], self._home)
            block.more.failovers += failovers

    def note_step(self, rows: int, tokens: int, seconds: float, context: int = 0) -> None:
        """A step has ended, see ``StepCounts.note``; it counts for the table that its last layer was routed by."""
        now = self._clock()
        with self._lock:
            self._steps.note(rows, tokens, seconds, context, now - self._step_ended)
        self._step_ended = now

    @property
    def has_windows(self) -> bool:
        """Whether ``take`` would bring anything: a window is over."""
        with self._lock:
            block = self._block
            if self._closed or self._counted:
                return True
            return block is not None and block.has_counts and time.monotonic() - block.opened >= WINDOW_SECONDS

    def take(self) -> tuple[Window, ...]:
        """All that was counted since the last call, the open window included, one window for each table.

        The step under way is left for the next call.
        """
        with self._lock:
            if self._block is not None and self._block.has_counts:
                self._closed.append(self._block)
                self._block = self._block.split()
            blocks, self._closed = self._closed, []
            self._put_steps()
            counted, self._counted = self._counted, Windows()
        for block in blocks:
            counted.add(self._count(block))
        return counted.take()

    def _count(self, block: Block) -> Window:
        try:
            self._on_sets(block.sets())
        except Exception as error:  # whatever it is, neither the windows nor a step may fail of it
            logger.warning("statistics of %d rows are lost: %s", block.whole, in_words(error), exc_info=error)
        return block.count(self._home)

    def _block_for(self, table: RoutingTable, top_k: int, least_rows: int = 0) -> Block:
        block = self._block
        return block if block is not None and block.table is table else self._renew(table, top_k, least_rows)

    def _renew(self, table: RoutingTable, top_k: int, least_rows: int) -> Block:
        """Close the block and begin another. A step that a new table falls into is in both, in parts."""
        if table is not self._table:
            self._put_steps()
            self._table = table
        if self._block is not None:
            self._closed.append(self._block)
        if len(self._closed) > MOST_CLOSED:
            self._counted.add(self._count(self._closed.pop(0)))
        self._block = Block(table, top_k, least_rows)
        return self._block

    def _put_steps(self) -> None:
        """Those of the table so far, into its window. They may be told later than their rows."""
        if self._table is not None and self._steps:
            window = Window.of(self._table)
            window.steps, self._steps = self._steps, StepCounts()
            self._counted.add(window)
