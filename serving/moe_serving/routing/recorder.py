"""Records what is routed, beside the routing client: the one source of every figure of a placement that is told.

The engine's thread notes ids, gate weights and choices of a layer while the shards compute. Notes of a few steps are
filed at once, in blocks, by it or by another thread, which takes the windows that are over, counts them, and hands
whole expert sets on. A window is over when another table comes into force or ``WINDOW_SECONDS`` have passed. Every row
is counted once, by the table that it was routed by, when its step has ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from moe_serving.routing.block import Block
from moe_serving.routing.gatherer import Sets
from moe_serving.routing.notes import AgainNote, EndNote, StepNote
from moe_serving.routing.steps import StepCounts
from moe_serving.routing.table import RoutingTable
from moe_serving.routing.window import Window, Windows
from moe_serving.threads import in_words

WINDOW_SECONDS = 1.0
"""A window that has traffic is closed after so long."""
MOST_CLOSED = 4
"""Blocks that wait to be counted. Where nobody takes them, the directory being away, the engine's thread counts one
for each that it fills, and their windows become one."""
MOST_NOTED = 256
"""Rows of notes that the engine's thread leaves to others to file, a step's counted twice, for it and its end: whoever
files finds cold caches once for all of them."""

Note = StepNote | AgainNote | EndNote

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
        self._step: StepNote | None = None
        self._newest: RoutingTable | None = None
        self._unfiled = 0
        # The engine's thread appends without the lock, whoever files has it.
        self._notes: deque[Note] = deque()
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
        step = self._step
        if step is None or layer != step.next or table is not step.table or len(ids) != step.rows:
            step = self._begin(table, layer, ids)
        step.copied += ids.tobytes(), gates.tobytes(), choice.tobytes()
        step.next = layer + 1
        if distinct[0]:
            step.chosen += distinct[0]
            step.touched += distinct[1]
        if step.next == step.end:
            self._step = None
            self._note(step)

    def record_again(self, table: RoutingTable, layer: int, choice: NDArray[np.int64], failovers: int) -> None:
        """What had to be asked for once more, in ``failovers`` pairs of another shard than at first."""
        self._follow(table)
        self._note(AgainNote(table, layer, choice, failovers))

    def note_step(self, rows: int, tokens: int, seconds: float, context: int = 0) -> None:
        """A step has ended, see ``StepCounts.note``; it counts for the table that its last layer was routed by."""
        now = self._clock()
        self._note(EndNote(rows, tokens, seconds, context, now - self._step_ended))
        self._step_ended = now

    def _begin(self, table: RoutingTable, layer: int, ids: NDArray[np.int64]) -> StepNote:
        self._follow(table)
        if self._step is not None:  # it failed
            self._note(self._step)
        self._step = StepNote(table, layer, *ids.shape)
        return self._step

    def _follow(self, table: RoutingTable) -> None:
        """Where it is new, what was routed before is over; a step that it falls into is in two notes, in parts."""
        if table is self._newest:
            return
        self._newest = table
        if self._step is not None:
            self._note(self._step)
            self._step = None
        self._unfiled = MOST_NOTED  # with the next note

    def _note(self, note: Note) -> None:
        self._notes.append(note)
        self._unfiled += note.rows
        if self._unfiled >= MOST_NOTED:
            self._unfiled = 0
            with self._lock:
                self._file()

    @property
    def has_windows(self) -> bool:
        """Whether ``take`` would bring anything: a window is over."""
        with self._lock:
            if self._block is None:
                self._file()
            if self._closed or self._counted:
                return True
            return self._block is not None and time.monotonic() - self._block.opened >= WINDOW_SECONDS

    def take(self) -> tuple[Window, ...]:
        """All that was counted since the last call, the open window included, one window for each table.

        The step under way is left for the next call.
        """
        with self._lock:
            self._file()
            self._put_steps()
            if self._block is not None:
                self._closed.append(self._block)
                self._block = None
            blocks, self._closed = self._closed, []
            counted, self._counted = self._counted, Windows()
        for block in blocks:
            counted.add(self._count(block))
        return counted.take()

    def _count(self, block: Block) -> Window:
        try:
            self._on_sets(block.sets())
        except Exception as error:  # whatever it is, neither the windows nor a step may fail of it
            logger.warning("statistics of %d rows are lost: %s", block.rows, in_words(error), exc_info=error)
        return block.count(self._home)

    def _file(self) -> None:
        """What was noted so far, in that order; the lock is held."""
        while self._notes:
            note = self._notes.popleft()
            if isinstance(note, EndNote):
                self._steps.note(*note)
            elif isinstance(note, StepNote):
                self._block_for(note).put(note)
            else:
                self._block_for(note).put_again(note, self._home)

    def _block_for(self, note: StepNote | AgainNote) -> Block:
        """The one that is open, if it is of that table and has room; what is asked again takes none."""
        block, rows = self._block, note.rows if isinstance(note, StepNote) else 0
        if block is None or block.table is not note.table or not block.has_room(rows):
            block = self._renew(note)
        return block

    def _renew(self, note: StepNote | AgainNote) -> Block:
        """Close the block and begin another."""
        if note.table is not self._table:
            self._put_steps()
            self._table = note.table
        if self._block is not None:
            self._closed.append(self._block)
        if len(self._closed) > MOST_CLOSED:
            self._counted.add(self._count(self._closed.pop(0)))
        self._block = Block(note.table, note.top_k, note.rows, note.began)
        return self._block

    def _put_steps(self) -> None:
        """Those of the table so far, to its rows, before their block is closed; they may be told later than these."""
        if self._table is None or not self._steps:
            return
        if self._block is not None:
            told: Block | Window = self._block
        else:
            told = Window.of(self._table)
            self._counted.add(told)
        told.steps, self._steps = self._steps, StepCounts()
