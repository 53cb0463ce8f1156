"""The benchmark's command line, and what it writes: numbers that NumPy made, with whether each aim is reached."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import placement as benchmark
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--figures", "99", "2"], "--figures: there are no [99], only [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]"),
        (["--figures"], "expected at least one argument"),
        (["--eplb", "/nonexistent"], "--eplb /nonexistent: there is no file /nonexistent: give a checkout"),
        (["--eplb", "{folder}"], "there is no file {folder}/eplb.py: give a checkout"),
        (["--eplb", "{folder}/text"], "{folder}/text is not a Python file"),
        (["--eplb", "{folder}/other.py"], "{folder}/other.py has no rebalance_experts"),
        (["--eplb", "{folder}/broken.py"], "{folder}/broken.py cannot be loaded: SyntaxError"),
        (["--json", "{folder}"], "--json {folder} is a directory"),
        (["--json", "{folder}/missing/rows.json"], "there is no folder {folder}/missing"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(benchmark, "FIGURES", (((2,), lambda: pytest.fail("measured")),))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    for name, text in {"text": "", "other.py": "", "broken.py": "def"}.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(SystemExit, match="2"):
        benchmark.main([argument.format(folder=tmp_path) for argument in arguments])
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_the_original_eplb_needs_torch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "FIGURES", ())
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "eplb.py").write_text("import torch")
    with pytest.raises(SystemExit, match="2"):
        benchmark.main(["--eplb", str(tmp_path)])
    assert "needs torch, which is not installed: pip install 'moe-operator[serving]'" in capsys.readouterr().err


def test_only_the_figures_asked_for_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {number: Row(number, f"figure {number}", 2.0, aim=float(number)) for number in (1, 2, 3)}
    figures = tuple(((number,), lambda number=number: [rows[number]]) for number in rows)
    monkeypatch.setattr(benchmark, "FIGURES", figures)
    found = []
    for wanted in (["2", "3"], ["1"]):
        code = benchmark.main(["--figures", *wanted, "--json", str(tmp_path / "rows.json")])
        found.append((code, [row["figure"] for row in json.loads((tmp_path / "rows.json").read_text())]))
    assert found == [(0, [2, 3]), (1, [1])]
