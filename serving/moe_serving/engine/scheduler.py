"""Which tokens of which sequences the next step computes. Pure: no tensors, no clock, no thread.

Policy: every sequence that only waits for its next token gets it in every step; what is left of the step's tokens
goes to prompts, first come first served, in chunks. A sequence is admitted when its whole length fits into the cache,
so none is ever thrown out again; those that do not fit wait in order of arrival.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from moe_placement.wire.applications import AttentionConfig
from moe_serving.engine.row_allocator import RowAllocator
from moe_serving.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """``count`` tokens of a sequence from ``computed`` on; when they are its last, the next token is chosen."""

    sequence: Sequence
    count: int

    @property
    def samples(self) -> bool:
        return self.count == self.sequence.pending


def take_tokens(chunks: Collection[Chunk], tokens: Iterable[int | None]) -> tuple[list[Sequence], list[Sequence]]:
    """After a step: count its chunks as computed and append the tokens chosen.

    Returns:
        The sequences that got a token, and those for which there is none (None in ``tokens``).
    """
    sampled = [chunk.sequence for chunk in chunks if chunk.samples]
    for chunk in chunks:
        chunk.sequence.computed += chunk.count
    grown: list[Sequence] = []
    stuck: list[Sequence] = []
    for sequence, token in zip(sampled, tokens, strict=True):
        if token is None:
            stuck.append(sequence)
        else:
            sequence.token_ids.append(token)
            grown.append(sequence)
    return grown, stuck


class Scheduler:
    """Queues of waiting and running sequences within the limits of one replica."""

    def __init__(self, limits: AttentionConfig) -> None:
        self._limits = limits
        self.rows = RowAllocator(limits.kv_cache_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []

    @property
    def busy(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Finished, failed or cancelled: its place and its rows are free from now on. Twice is once."""
        if sequence in self.running:
            self.running.remove(sequence)
            self.rows.release(sequence.rows)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def reconfigure(self, limits: AttentionConfig) -> list[Sequence]:
        """Take new limits; the waiting sequences that can never fit any more leave the queue and are returned."""
        self._limits = limits
        self.rows.resize(limits.kv_cache_tokens)
        refused = [sequence for sequence in self.waiting if sequence.reservation > limits.kv_cache_tokens]
        self.waiting = deque(sequence for sequence in self.waiting if sequence not in refused)
        return refused

    def next_step(self) -> list[Chunk]:
        """The chunks of the next step, decoding sequences first; empty when there is nothing to do."""
        self._admit()
        decoding = [Chunk(sequence, 1) for sequence in self.running if sequence.pending == 1]
        budget = self._limits.max_batch_tokens
        step = decoding[:budget]
        budget -= len(step)
        for sequence in self.running:
            count = min(sequence.pending, budget)
            if sequence.pending > 1 and count:
                step.append(Chunk(sequence, count))
                budget -= count
        self._rotate(len(decoding))
        return step

    def _admit(self) -> None:
        # Not more sequences than tokens in a step: each then decodes in every step and every prompt advances.
        places = min(self._limits.max_running, self._limits.max_batch_tokens)
        while self.waiting and len(self.running) < places:
            rows = self.rows.reserve(self.waiting[0].reservation)
            if rows is None:
                return
            sequence = self.waiting.popleft()
            sequence.rows = rows
            self.running.append(sequence)

    def _rotate(self, decoding: int) -> None:
        """After the limits were lowered more sequences may run than a step has tokens: then they take turns."""
        if decoding > self._limits.max_batch_tokens:
            shift = self._limits.max_batch_tokens
            self.running = self.running[shift:] + self.running[:shift]
