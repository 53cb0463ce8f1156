"""Which blocks of the key/value cache belong to whom. Pure bookkeeping: the rows themselves are in ``cache``.

Tokens are what is promised, blocks are what is given, and there are enough of these that tokens alone decide: whoever
asks for no more than is left of the limit finds blocks, wherever they lie. They lie side by side where there is such a
piece, so that a sequence's past is read as one view. Each block counts who refers to it, and is free when nobody does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

BLOCK_TOKENS = 16

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockTable:
    """Where the keys and values of one sequence are.

    Attributes:
        starts: ``[blocks]``, the row of the cache at which each block begins.
        block: tokens in a block.
        tokens: how many were asked for; the last block may have room for more.
    """

    starts: Ints
    block: int
    tokens: int

    def __len__(self) -> int:
        return self.tokens

    @cached_property
    def contiguous(self) -> bool:
        """Whether all rows lie side by side, in order."""
        return len(self.starts) > 0 and bool((np.diff(self.starts) == self.block).all())

    def rows(self, begin: int, end: int) -> range | Ints:
        """Of the tokens at positions from ``begin`` to below ``end``: a range where all lie side by side."""
        if self.contiguous:
            first = int(self.starts[0])
            return range(first + begin, first + end)
        positions = np.arange(begin, end)
        return self.starts[positions // self.block] + positions % self.block


NO_BLOCKS = BlockTable(np.empty(0, dtype=np.int64), BLOCK_TOKENS, 0)


def stack_tables(tables: Sequence[BlockTable], lengths: Sequence[int]) -> Ints:
    """``[tables, blocks]``: where the blocks of each one's first ``length`` tokens begin; 0 behind them."""
    counts = [-(-length // table.block) for table, length in zip(tables, lengths, strict=True)]
    stacked = np.zeros((len(tables), max(counts)), dtype=np.int64)
    for row, table, count in zip(stacked, tables, counts, strict=True):
        row[:count] = table.starts[:count]
    return stacked


class BlockAllocator:
    """Blocks for ``limit`` tokens.

    The last block of a sequence is seldom full. ``spare`` blocks are there for that, one for each of as many sequences:
    n sequences of t tokens together take at most ``ceil(t / block) + n`` blocks. Where more sequences come, blocks may
    end before tokens do.

    Invariants: no more tokens are asked for than ``limit``, but for those from before a lower one; the blocks that are
    free are those that nobody refers to.
    """

    def __init__(self, limit: int, spare: int, block: int = BLOCK_TOKENS) -> None:
        self._limit = limit
        self._spare = spare
        self._block = block
        self._references: Ints = np.zeros(self._usable, dtype=np.int64)
        self._used = 0

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def used(self) -> int:
        """Tokens asked for. Any thread may ask."""
        return self._used

    @property
    def end(self) -> int:
        """Rows that must exist: of all blocks that can be given, and of those in use from before a lower limit."""
        return len(self._references) * self._block

    def fits(self, count: int, without: Collection[BlockTable] = ()) -> bool:
        """Whether ``reserve(count)`` would give blocks, if those of ``without`` had been released."""
        used, references = self._used, self._references
        if without:
            references = references.copy()
            for table in without:
                references[self._numbers(table)] -= 1
                used -= table.tokens
        free = int(np.count_nonzero(references[: self._usable] == 0))
        return used + count <= self._limit and self._blocks(count) <= free

    def reserve(self, count: int) -> BlockTable | None:
        """Blocks for ``count`` (at least 1) tokens, or None when there are not as many now."""
        if not self.fits(count):
            return None
        free = np.flatnonzero(self._references[: self._usable] == 0)
        chosen = _choose(free, self._blocks(count))
        table = BlockTable(chosen * self._block, self._block, count)
        self.retain(table)
        return table

    def retain(self, table: BlockTable) -> None:
        """Refer to a table's blocks once more: they last until each reference was released. Each counts as tokens
        asked for.
        """
        self._references[self._numbers(table)] += 1
        self._used += table.tokens

    def release(self, table: BlockTable) -> None:
        """Give back what ``reserve`` gave, or end what ``retain`` began.

        Raises:
            ValueError: nobody refers to it.
        """
        numbers = self._numbers(table)
        if numbers.max(initial=-1) >= len(self._references) or not self._references[numbers].all():
            raise ValueError(f"a table of {table.tokens} tokens was released more often than it was given")
        self._references[numbers] -= 1
        self._used -= table.tokens
        self._fit()

    def resize(self, limit: int, spare: int) -> None:
        """Change both; blocks in use beyond a lower limit stay until they are released."""
        self._limit, self._spare = limit, spare
        self._fit()

    @property
    def _usable(self) -> int:
        """The first of all blocks, which may be given."""
        return self._blocks(self._limit) + self._spare

    def _fit(self) -> None:
        """Count references to as many blocks as there must be now."""
        used = np.flatnonzero(self._references)
        blocks = max(self._usable, int(used[-1]) + 1 if len(used) else 0)
        kept = self._references[:blocks]
        self._references = np.concatenate([kept, np.zeros(blocks - len(kept), dtype=np.int64)])

    def _numbers(self, table: BlockTable) -> Ints:
        return table.starts // self._block

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self._block)


def _choose(free: Ints, wanted: int) -> Ints:
    """Of the blocks ``free``, ascending, the first that lie side by side; the first of all where none do."""
    pieces = np.flatnonzero(free[wanted - 1 :] - free[: len(free) - wanted + 1] == wanted - 1)
    begin = int(pieces[0]) if len(pieces) else 0
    return free[begin : begin + wanted]
