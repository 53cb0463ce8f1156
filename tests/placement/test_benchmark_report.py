"""What the benchmark writes: numbers that NumPy made, with whether each aim is reached."""

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.brain.report import Row, write_rows


@pytest.mark.parametrize(
    ("value", "aim", "at_most", "reached"),
    [(2.0, 3.0, True, True), (2.0, 1.0, True, False), (2.0, 1.0, False, True), (2.0, None, True, True)],
)
def test_rows_are_read_again(tmp_path: Path, value: float, aim: float | None, at_most: bool, reached: bool) -> None:
    row = Row(1, "speed", np.float64(value), None if aim is None else np.float64(aim), at_most, " s")
    write_rows(tmp_path / "rows.json", [row])
    (read,) = json.loads((tmp_path / "rows.json").read_text())
    assert (read["value"], read["aim"], read["reached"], read["unit"]) == (value, aim, reached, " s")
