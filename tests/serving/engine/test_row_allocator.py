"""Ranges of cache rows: first fit, and nothing is lost or given twice whatever is asked in whatever order."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from moe_serving.engine.row_allocator import RowAllocator


def test_first_fit_and_reuse():
    rows = RowAllocator(10)
    first, second = rows.reserve(4), rows.reserve(4)
    assert (first, second) == (range(4), range(4, 8))
    assert rows.reserve(3) is None
    rows.release(first)
    assert rows.reserve(5) is None, "6 rows are free, but no 5 of them in one piece"
    assert rows.reserve(3) == range(3)
    rows.release(second)
    assert rows.reserve(7) == range(3, 10)


@pytest.mark.parametrize(
    ("used", "limit", "end", "next_piece"),
    [
        ([4], 20, 20, range(4, 20)),
        ([4], 6, 6, range(4, 6)),
        ([4, 4], 6, 8, None),
        ([8], 2, 8, None),
    ],
)
def test_resize(used, limit, end, next_piece):
    rows = RowAllocator(10)
    for count in used:
        assert rows.reserve(count) is not None
    rows.resize(limit)
    assert rows.end == end
    piece = rows.reserve(len(next_piece) if next_piece else 1)
    assert piece == next_piece


class Ranges(RuleBasedStateMachine):
    """Any order of reserve, release and resize, against plain sets of rows."""

    ranges = Bundle("ranges")

    def __init__(self) -> None:
        super().__init__()
        self.limit = 24
        self.rows = RowAllocator(self.limit)
        self.used: list[range] = []

    @rule(target=ranges, count=st.integers(1, 12))
    def reserve(self, count: int) -> range | None:
        taken = {row for rows in self.used for row in rows}
        fits = any(not taken & set(range(start, start + count)) for start in range(self.limit - count + 1))
        assert self.rows.fits(count) == fits
        rows = self.rows.reserve(count)
        assert (rows is not None) == fits
        if rows is not None:
            assert len(rows) == count and rows.stop <= self.limit and not taken & set(rows)
            self.used.append(rows)
        return rows

    @rule(rows=consumes(ranges))
    def release(self, rows: range | None) -> None:
        if rows is not None:
            self.rows.release(rows)
            self.used.remove(rows)

    @rule(count=st.integers(1, 12), data=st.data())
    def ask(self, count: int, data: st.DataObject) -> None:
        without = [rows for rows in self.used if data.draw(st.booleans())]
        taken = {row for rows in self.used if rows not in without for row in rows}
        fits = any(not taken & set(range(start, start + count)) for start in range(self.limit - count + 1))
        assert self.rows.fits(count, without) == fits

    @rule(limit=st.integers(1, 30))
    def resize(self, limit: int) -> None:
        self.limit = limit
        self.rows.resize(limit)

    @invariant()
    def counts(self) -> None:
        assert self.rows.used == sum(map(len, self.used))
        assert self.rows.end == max([self.limit, *(rows.stop for rows in self.used)])


TestRanges = Ranges.TestCase
