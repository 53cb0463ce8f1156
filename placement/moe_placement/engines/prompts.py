"""Which rows of recorded forward passes belong to one request, where the recording does not say.

A pass that extends lists how many tokens of each request it takes (a prompt, a chunk of it, or what a cached prefix
leaves); a pass that decodes has one row per request. A row continues the request whose next position it has. Where
several have it, they become one prompt: a prompt that is too large costs a split some evenness, one that is cut in two
would let the traffic that was planned on leak into what is judged on. That is still so for a request that the engine
retracted and reads anew from its first position.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ends = dict[int, set[int]]
"""Requests by the position that comes next."""


class PromptNumbers:
    """Numbers for the requests of all ranks, given out pass by pass; some turn out to be one (``resolved``)."""

    def __init__(self) -> None:
        self._same_as: list[int] = []

    def new(self) -> int:
        """A number that nothing has yet."""
        self._same_as.append(len(self._same_as))
        return len(self._same_as) - 1

    def joined(self, numbers: set[int]) -> int:
        """The one number that all of these are from now on."""
        roots = {self._root(number) for number in numbers}
        first = min(roots)
        for root in roots:
            self._same_as[root] = first
        return first

    def resolved(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 ``[tokens]``: 0, 1, … in the order of first appearance, for numbers ``[tokens]`` given out."""
        roots = np.array([self._root(number) for number in range(len(self._same_as))], dtype=np.int64)
        found, first, dense = np.unique(roots[numbers], return_index=True, return_inverse=True)
        rank = np.empty(len(found), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(found))
        return np.asarray(rank[dense], dtype=np.int64)

    def _root(self, number: int) -> int:
        while self._same_as[number] != number:
            self._same_as[number] = number = self._same_as[self._same_as[number]]
        return number


class RankPasses:
    """The passes of one rank, in order of time."""

    def __init__(self, numbers: PromptNumbers) -> None:
        self._numbers = numbers
        self._begun_before: int | None = None
        self._running: Ends = {}
        self._extended: Ends = {}
        self._decoded_last = False

    def extend(self, positions: Sequence[int], lengths: Sequence[int]) -> list[int]:
        """A number for each row of requests that take ``lengths`` rows each; rows beyond these are padding."""
        rows: list[int] = []
        ends: Ends = defaultdict(set)
        for length in lengths:
            begin = positions[len(rows)] if length else 0
            before = self._continued(begin) if begin else set()
            number = self._numbers.joined(before) if before else self._numbers.new()
            ends[begin + length].add(number)
            rows += [number] * length
        # Requests whose prompt is still coming in chunks sit out decode passes, those that ended never come back.
        kept = {} if self._decoded_last else self._extended
        self._extended = {end: kept.get(end, set()) | ends.get(end, set()) for end in kept.keys() | ends.keys()}
        self._decoded_last = False
        return rows + [self._unseen()] * (len(positions) - len(rows))

    def decode(self, positions: Sequence[int]) -> list[int]:
        """A number for each row of a request of its own; all running ones take part, so that others have ended."""
        rows = []
        ends: Ends = defaultdict(set)
        for position in positions:
            number = self._numbers.joined(self._continued(position) or {self._unseen()})
            ends[position + 1].add(number)
            rows.append(number)
        self._extended = {end: some for end, some in self._extended.items() if end not in positions}
        self._running = ends
        self._decoded_last = True
        return rows

    def _continued(self, position: int) -> set[int]:
        return self._running.get(position, set()) | self._extended.get(position, set())

    def _unseen(self) -> int:
        """One prompt for all that began before the recording, or whose positions jump."""
        if self._begun_before is None:
            self._begun_before = self._numbers.new()
        return self._begun_before
