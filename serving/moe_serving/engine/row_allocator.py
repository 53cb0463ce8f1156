"""Which rows of the key/value cache belong to whom: contiguous ranges, so that attention reads them as views."""

from __future__ import annotations

from collections.abc import Collection


class RowAllocator:
    """First fit over ``limit`` rows. Pure bookkeeping; the rows themselves are in ``cache.KeyValueCache``.

    Invariant: ranges in use and free ranges are disjoint; below ``limit`` every row is in exactly one of them.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._free = [range(limit)]
        self._used: set[range] = set()
        self._used_rows = 0

    @property
    def limit(self) -> int:
        return self._limit

    @property
    def used(self) -> int:
        """Rows in use. Any thread may ask."""
        return self._used_rows

    @property
    def end(self) -> int:
        """Rows that must exist: ``limit``, or more while a range from before a lower limit is in use."""
        return max([self._limit, *(rows.stop for rows in self._used)])

    def fits(self, count: int, without: Collection[range] = ()) -> bool:
        """Whether ``reserve(count)`` would give rows, if those of ``without`` had been released."""
        free = self._gaps(self._used.difference(without)) if without else self._free
        return any(len(rows) >= count for rows in free)

    def reserve(self, count: int) -> range | None:
        """``count`` (at least 1) rows in one piece, or None when there is no such piece now."""
        for place, free in enumerate(self._free):
            if len(free) >= count:
                rows = range(free.start, free.start + count)
                self._free[place : place + 1] = [range(rows.stop, free.stop)] if len(free) > count else []
                self._used.add(rows)
                self._used_rows += count
                return rows
        return None

    def release(self, rows: range) -> None:
        """Give back what ``reserve`` gave."""
        self._used.remove(rows)
        self._used_rows -= len(rows)
        self._rebuild_free()

    def resize(self, limit: int) -> None:
        """Change the number of rows; ranges in use beyond a lower limit stay until they are released."""
        self._limit = limit
        self._rebuild_free()

    def _rebuild_free(self) -> None:
        self._free = self._gaps(self._used)

    def _gaps(self, used: Collection[range]) -> list[range]:
        """Between the ranges of ``used``, below the limit."""
        gaps, begin = [], 0
        for rows in sorted(used, key=lambda rows: rows.start):
            if begin < min(rows.start, self._limit):
                gaps.append(range(begin, min(rows.start, self._limit)))
            begin = rows.stop
        if begin < self._limit:
            gaps.append(range(begin, self._limit))
        return gaps
