"""The digest of an expert's bytes as they are held: tells a copy that was damaged, on its way or in memory.

It is made from sums of blocks while an expert is filled, in any order and by several threads, and costs a fraction of
what SHA-256 of all bytes would. A block is a table of ``ROWS`` times ``COLUMNS`` words of 64 bits; the digest is a hash
of the sums, modulo 2⁶⁴, of each row and of each column, and of what is left behind the last whole row. So what is left
out, put in another place, or not overwritten is seen as surely as by sums of 64 bits, and up to three damaged bits are
seen always: to go unseen, differences must cancel in each of their rows and columns, which takes four. It is no seal:
who wants to forge a copy can, and who may send one has proved the key.
"""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

ROWS, COLUMNS = 64, 512
BLOCK_BYTES = 8 * ROWS * COLUMNS
DIGEST_BYTES = 16

_ROW_BYTES = 8 * COLUMNS


class Checksums:
    """Of some matrices that are being filled.

    Args:
        sizes: bytes of each.
    """

    def __init__(self, *sizes: int) -> None:
        self._sums = [np.zeros((math.ceil(size / BLOCK_BYTES), ROWS + COLUMNS), dtype=np.uint64) for size in sizes]
        self._tails = [b""] * len(sizes)

    def add(self, matrix: int, begin: int, data: memoryview) -> None:
        """Bytes of one matrix, of which each is added once.

        Args:
            begin: where they belong; a block begins there.
            data: whole blocks, but for the end of the matrix. It begins at a multiple of 8 bytes of memory.
        """
        whole = len(data) // BLOCK_BYTES * BLOCK_BYTES
        first, rest = begin // BLOCK_BYTES, data[whole:]
        if whole:
            _sum(data[:whole], self._sums[matrix][first : first + whole // BLOCK_BYTES])
        rows = len(rest) // _ROW_BYTES * _ROW_BYTES
        if rows:
            _sum(rest[:rows], self._sums[matrix][first + whole // BLOCK_BYTES :][:1])
        if len(rest) > rows:
            self._tails[matrix] = bytes(rest[rows:])

    def digest(self) -> bytes:
        """Of all that was added, ``DIGEST_BYTES`` long."""
        made = hashlib.sha256()
        for sums, tail in zip(self._sums, self._tails, strict=True):
            made.update(sums.tobytes())
            made.update(tail)
        return made.digest()[:DIGEST_BYTES]


def _sum(data: memoryview, into: NDArray[np.uint64]) -> None:
    """Of blocks side by side, the last of which may lack rows."""
    table = np.frombuffer(data, dtype=np.uint64).reshape(len(into), -1, COLUMNS)
    np.add.reduce(table, axis=2, out=into[:, : table.shape[1]])
    np.add.reduce(table, axis=1, out=into[:, ROWS:])
