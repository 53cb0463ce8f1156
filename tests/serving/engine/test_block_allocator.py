"""Blocks of the cache: tokens alone decide, and nothing is lost or given twice whatever is asked in whatever order."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from moe_serving.engine.block_allocator import BlockAllocator, BlockTable, stack_tables


def starts(table: BlockTable | None) -> list[int] | None:
    return None if table is None else table.starts.tolist()


def test_side_by_side_where_there_is_such_a_piece():
    blocks = BlockAllocator(40, spare=0, block=4)
    first, second, third, fourth = (blocks.reserve(count) for count in (7, 4, 9, 12))
    assert [starts(table) for table in (first, second, third, fourth)] == [[0, 4], [8], [12, 16, 20], [24, 28, 32]]
    blocks.release(first)
    blocks.release(third)
    assert starts(blocks.reserve(12)) == [12, 16, 20], "the first piece that is large enough"
    assert starts(blocks.reserve(5)) == [0, 4]


def test_what_is_free_in_pieces_is_given_in_pieces():
    blocks = BlockAllocator(24, spare=0, block=4)
    tables = [blocks.reserve(4) for _ in range(6)]
    for number in (0, 2, 5):
        blocks.release(tables[number])
    scattered = blocks.reserve(12)
    assert starts(scattered) == [0, 8, 20] and not scattered.contiguous
    assert blocks.used == 24 and not blocks.fits(1)


def test_spare_blocks_are_for_what_does_not_fill_its_last_one():
    blocks = BlockAllocator(20, spare=4, block=4)
    assert [len(blocks.reserve(5)) for _ in range(4)] == [5] * 4, "8 blocks for 20 tokens"
    assert blocks.reserve(1) is None, "one block is free, and no token"
    few = BlockAllocator(20, spare=0, block=4)
    assert [len(few.reserve(5)) for _ in range(2)] == [5] * 2
    assert few.fits(4) and not few.fits(5), "one block is free, and ten tokens"


@pytest.mark.parametrize(
    ("used", "limit", "end", "more"),
    [
        ([4], 20, 24, [4, 8, 12, 16]),
        ([4], 6, 12, [4]),
        ([4, 4], 6, 12, None),
        ([4, 8], 4, 12, None),
    ],
)
def test_resize(used, limit, end, more):
    blocks = BlockAllocator(12, spare=1, block=4)
    for count in used:
        assert blocks.reserve(count) is not None
    assert blocks.end == 16
    blocks.resize(limit, spare=1)
    assert blocks.end == end
    assert starts(blocks.reserve(limit - sum(used) if more else 1)) == more


def test_more_sequences_get_spare_blocks_of_their_own():
    blocks = BlockAllocator(20, spare=0, block=4)
    blocks.resize(20, spare=4)
    assert [len(blocks.reserve(5)) for _ in range(4)] == [5] * 4


def test_blocks_last_until_nobody_refers_to_them():
    blocks = BlockAllocator(16, spare=0, block=4)
    table = blocks.reserve(8)
    blocks.retain(table)
    assert blocks.used == 16 and blocks.reserve(1) is None, "each reference counts as tokens asked for"
    blocks.release(table)
    other = blocks.reserve(8)
    assert starts(other) == [8, 12]
    blocks.release(table)
    assert starts(blocks.reserve(8)) == [0, 4]
    blocks.release(other)
    with pytest.raises(ValueError, match="of 8 tokens was released more often than it was given"):
        blocks.release(other)
    assert blocks.used == 8


def test_a_table_knows_each_tokens_row():
    scattered = BlockTable(np.array([8, 0, 20]), 4, 11)
    rows = [8, 9, 10, 11, 0, 1, 2, 3, 20, 21, 22]
    one_piece = BlockTable(np.array([8, 12, 16]), 4, 11)
    for begin in range(11):
        for end in range(begin + 1, 12):
            assert scattered.rows(begin, end).tolist() == rows[begin:end]
            assert one_piece.rows(begin, end) == range(8 + begin, 8 + end)
    assert stack_tables([scattered, one_piece, scattered], [3, 12, 5]).tolist() == [[8, 0, 0], [8, 12, 16], [8, 0, 0]]


class Blocks(RuleBasedStateMachine):
    """Any order of reserve, retain, release and resize, against a plain count of who refers to which block."""

    tables = Bundle("tables")
    BLOCK = 4

    def __init__(self) -> None:
        super().__init__()
        self.limit, self.spare = 40, 3
        self.blocks = BlockAllocator(self.limit, self.spare, self.BLOCK)
        self.held: list[BlockTable] = []

    def references(self, held: list[BlockTable]) -> Counter[int]:
        return Counter(int(start) for table in held for start in table.starts)

    def usable(self) -> range:
        return range(0, (-(-self.limit // self.BLOCK) + self.spare) * self.BLOCK, self.BLOCK)

    def fits(self, count: int, held: list[BlockTable]) -> bool:
        taken = self.references(held)
        free = sum(start not in taken for start in self.usable())
        return sum(map(len, held)) + count <= self.limit and -(-count // self.BLOCK) <= free

    @rule(target=tables, count=st.integers(1, 20))
    def reserve(self, count: int):
        taken, fits = self.references(self.held), self.fits(count, self.held)
        assert self.blocks.fits(count) == fits
        table = self.blocks.reserve(count)
        assert (table is not None) == fits
        if table is None:
            return multiple()
        given = table.starts.tolist()
        assert len(set(given)) == len(given) == -(-count // self.BLOCK) and len(table) == count
        assert set(given) <= set(self.usable()) and not taken.keys() & set(given), "of no other sequence"
        pieces = (range(begin, begin + self.BLOCK * len(given), self.BLOCK) for begin in self.usable())
        assert table.contiguous == any(piece[-1] in self.usable() and not taken.keys() & piece for piece in pieces)
        self.held.append(table)
        return table

    @rule(target=tables, table=tables)
    def retain(self, table: BlockTable) -> BlockTable:
        self.blocks.retain(table)
        self.held.append(table)
        return table

    @rule(table=consumes(tables))
    def release(self, table: BlockTable) -> None:
        self.blocks.release(table)
        self.held.remove(table)

    @rule(count=st.integers(1, 20), data=st.data())
    def ask(self, count: int, data: st.DataObject) -> None:
        chosen = [data.draw(st.booleans()) for _ in self.held]
        without = [table for table, away in zip(self.held, chosen, strict=True) if away]
        left = [table for table, away in zip(self.held, chosen, strict=True) if not away]
        assert self.blocks.fits(count, without) == self.fits(count, left)

    @rule(limit=st.integers(1, 48), spare=st.integers(0, 5))
    def resize(self, limit: int, spare: int) -> None:
        self.limit, self.spare = limit, spare
        self.blocks.resize(limit, spare)

    @invariant()
    def counts(self) -> None:
        taken = self.references(self.held)
        assert self.blocks.used == sum(map(len, self.held))
        assert self.blocks.end == max([self.usable().stop, *(start + self.BLOCK for start in taken)])
        assert {
            self.BLOCK * number: count for number, count in enumerate(self.blocks._references.tolist()) if count
        } == taken

    @invariant()
    def tokens_alone_decide_where_there_are_spare_blocks_for_all(self) -> None:
        if len(self.held) < self.spare:
            left = self.limit - self.blocks.used
            assert [self.blocks.fits(count) for count in range(1, self.limit + 2)] == [
                count <= left for count in range(1, self.limit + 2)
            ]


TestBlocks = Blocks.TestCase
