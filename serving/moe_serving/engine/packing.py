"""The tokens of all sequences of a step as one row. Pure: what a step is given, without tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moe_serving.engine.block_allocator import BlockTable
from moe_serving.engine.rope import seen_length
from moe_serving.engine.scheduler import Chunk


@dataclass(frozen=True, slots=True)
class Span:
    """The tokens of one sequence in a step.

    Attributes:
        begin, count: where they are among the packed tokens.
        blocks: of the cache, the sequence's.
        length: tokens of the sequence so far, these included.
    """

    begin: int
    count: int
    blocks: BlockTable
    length: int


@dataclass(frozen=True, slots=True)
class PackedTokens:
    """Attributes:
    ids, positions, rows, seen: of each token ``[T]``: what it is, where in its sequence, which row of the cache takes
        its keys and values, and ``rope.seen_length``.
    spans: one for each sequence.
    last: which tokens are behind whom the next one is to be chosen.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    last: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> PackedTokens:
        packed = cls()
        for chunk in chunks:
            packed._append(chunk)
        return packed

    def _append(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        begin, end = sequence.computed, sequence.computed + chunk.count
        self.spans.append(Span(len(self.ids), chunk.count, sequence.blocks, end))
        self.ids.extend(sequence.token_ids[begin:end])
        self.positions.extend(range(begin, end))
        self.rows.extend(map(int, sequence.blocks.rows(begin, end)))
        prompt = len(sequence.request.prompt_ids)
        self.seen.extend(seen_length(position, prompt) for position in range(begin, end))
        if chunk.samples:
            self.last.append(len(self.ids) - 1)
