"""The counters of all api processes together: whichever is asked tells the same sum, and never less than before.

A grow-only counter (M. Shapiro et al., "A comprehensive study of convergent and commutative replicated data types",
INRIA RR-7506, 2011, specification 6): each process counts in an entry of its own, two ledgers are merged entry by entry
by the larger value, and what is told is the sum of all entries. The directory keeps one; each api keeps it as it heard
it last, and hands it to a directory that has restarted. Entries of processes that are gone are folded into one sum once
there are many; only the directory folds, so that of two ledgers one has folded all that the other has. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample of an exposition: its name, and its labels with their values in alphabetical order."""
Counts = Mapping[Key, float]
"""What has been counted; what is missing is 0."""

MOST_SAMPLES = 1024
"""At most in one entry: routes times status codes, and the buckets of histograms, are a few hundred."""
_MOST_LABELS = 8
_MOST_CHARACTERS = 256
_MOST_NAMES = 256
"""Folded processes whose names are remembered: until every ledger has it that these are folded."""
_STEPS = 2.0**20
"""Values are told in steps of 1 / ``_STEPS``: sums of these are exact, in whatever order, up to 2^33. Rounding would
make a sum fall by its last digit, which a reader of counters takes for a restart."""


@dataclass(frozen=True, slots=True)
class Past:
    """The sum of the processes that were folded.

    Attributes:
        size: how many they are.
        names: of the last ones.
    """

    counts: Counts = field(default_factory=dict)
    size: int = 0
    names: tuple[str, ...] = ()

    def follows(self, other: Past) -> bool:
        """Whether all that the other has folded is folded here too."""
        return self.size >= other.size and (not other.names or other.names[-1] in self.names)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Entries by process, and the past. See the module."""

    entries: Mapping[str, Counts] = field(default_factory=dict)
    past: Past = field(default_factory=Past)

    def merge(self, other: Ledger) -> Ledger:
        """A ledger of all that either knows."""
        past = other.past if other.past.follows(self.past) else self.past
        entries = {
            name: _larger(self.entries.get(name, {}), other.entries.get(name, {}))
            for name in {**self.entries, **other.entries}
            if name not in past.names
        }
        return Ledger(entries, past)

    def count(self, name: str, counts: Counts) -> Ledger:
        """The ledger with what a process says of itself."""
        if name in self.past.names:
            return self
        return Ledger({**self.entries, name: _larger(self.entries.get(name, {}), counts)}, self.past)

    def fold(self, names: Collection[str]) -> Ledger:
        """The same total, with the entries of these processes in the past. What they tell later is not counted."""
        gone = [name for name in self.entries if name in names]
        past = Past(
            add_up([self.past.counts, *(self.entries[name] for name in gone)]),
            self.past.size + len(gone),
            (*self.past.names, *gone)[-_MOST_NAMES:],
        )
        return Ledger({name: counts for name, counts in self.entries.items() if name not in gone}, past)

    def total(self) -> Counts:
        """The sum over all processes, those of the past included."""
        return add_up([self.past.counts, *self.entries.values()])


def add_up(all_counts: Iterable[Counts]) -> Counts:
    """Sample by sample."""
    total: dict[Key, float] = {}
    for counts in all_counts:
        for key, value in counts.items():
            total[key] = total.get(key, 0.0) + value
    return total


def exact(value: float) -> float:
    """The value as it is told; see ``_STEPS``."""
    return math.floor(value * _STEPS) / _STEPS


def check_ledger(ledger: Ledger, most_entries: int) -> None:
    """
    Raises:
        ValueError: it holds what no ledger holds, or too much; says what is wrong.
    """
    if len(ledger.entries) > most_entries or len(ledger.past.names) > _MOST_NAMES:
        raise ValueError(f"the ledger has {len(ledger.entries)} entries; at most {most_entries} are kept")
    for counts in (ledger.past.counts, *ledger.entries.values()):
        check_counts(counts)


def check_counts(counts: Mapping[Any, Any]) -> None:
    """
    Raises:
        ValueError: these are no counts, or too many; says what is wrong.
    """
    if len(counts) > MOST_SAMPLES:
        raise ValueError(f"there are {len(counts)} samples; at most {MOST_SAMPLES} are taken")
    for key, value in counts.items():
        if not _is_key(key):
            raise ValueError(f"{key!r:.200} is no name of a sample with its labels")
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ValueError(f"{key[0]} is {value!r:.200}, which is no count")


def _is_key(key: Any) -> bool:
    match key:
        case (str(name), tuple(labels)) if len(labels) <= _MOST_LABELS:
            words = [name, *(word for label in labels if isinstance(label, tuple) for word in label)]
            shaped = all(isinstance(label, tuple) and len(label) == 2 for label in labels)
            return shaped and all(isinstance(word, str) and len(word) <= _MOST_CHARACTERS for word in words)
    return False


def _larger(one: Counts, other: Counts) -> Counts:
    return {key: max(one.get(key, 0.0), other.get(key, 0.0)) for key in {**one, **other}}
