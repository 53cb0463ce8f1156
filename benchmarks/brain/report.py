"""A figure with its aim, and the table they are printed in."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Row:
    """One measured figure.

    Attributes:
        figure: its number in the document of its benchmark.
        name: what was measured, on what.
        value: as measured.
        aim: the number to reach; None for a figure that is only told.
        at_most: whether smaller is better.
        unit: how to print it.
        stretch: a further aim that does not count.
    """

    figure: int
    name: str
    value: float
    aim: float | None = None
    at_most: bool = True
    unit: str = ""
    stretch: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the aim is met; figures without one always are."""
        if self.aim is None:
            return True
        return bool(self.value <= self.aim if self.at_most else self.value >= self.aim)


def print_rows(rows: Iterable[Row]) -> None:
    """One line each."""
    for row in rows:
        sign = "<=" if row.at_most else ">="
        aim = "" if row.aim is None else f"aim {sign} {row.aim:.4g}{row.unit}"
        stretch = "" if row.stretch is None else f" (stretch {row.stretch:.4g}{row.unit})"
        verdict = "" if row.aim is None else ("ok" if row.reached else "BELOW ITS AIM")
        print(f"{row.figure}  {row.name:<78} {row.value:>10.4g}{row.unit:<4} {aim}{stretch} {verdict}", flush=True)


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """The same as JSON."""
    path.write_text(json.dumps([{**asdict(row), "reached": row.reached} for row in rows], indent=1) + "\n")


def measured(measure: Callable[[], list[Row]]) -> list[Row]:
    """What ``measure`` finds, printed, and how long it took."""
    begin = time.monotonic()
    rows = measure()
    print_rows(rows)
    print(f"   ({time.monotonic() - begin:.0f} s)", flush=True)
    return rows


def conclude(rows: Sequence[Row], path: Path | None) -> int:
    """Write the rows where that is asked for, and say how many are below their aim; returns the exit status."""
    if path is not None:
        write_rows(path, rows)
    below = sum(not row.reached for row in rows)
    print(f"{below} figures below their aim")
    return 1 if below else 0
