"""What is told while it is measured: lines for people, and a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contest.figures import Case, Row, table
from benchmarks.contest.machine import described


class Report:
    """Tells of the machine at once.

    Args:
        path: also written to, as a whole each time that something is added.

    Attributes:
        rows: all so far.
    """

    def __init__(self, path: Path | None) -> None:
        self.rows: list[Row] = []
        self._path = path
        self._machine: dict[str, Any] = {}
        self.note(**described())

    def note(self, **facts: Any) -> None:
        """Something of the machine that was found out; newer facts take the place of older ones."""
        self._machine |= facts
        print(", ".join(f"{name} {value}" for name, value in facts.items()), flush=True)

    def warn(self, text: str) -> None:
        """Of what falsifies figures."""
        print(f"WARNING: {text}", flush=True)

    def add(self, case: Case, rows: Sequence[Row]) -> None:
        """Of contestants that ran in turn."""
        self.rows += rows
        print(f"\n{table(case, rows)}", flush=True)
        if self._path is not None:
            told = {"machine": self._machine, "rows": [asdict(row) for row in self.rows]}
            self._path.write_text(json.dumps(told, indent=1) + "\n")
