"""What `benchmarks.lean` prints of rounds, and what it refuses before it measures anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import lean


def test_rounds_are_told_as_medians_and_quartiles_and_compared_one_by_one() -> None:
    line = lean._line(8, [1000.0, 2000.0, 3000.0], [500.0, 500.0, 1000.0])
    assert line == (
        "batch 8: modules 2,000 (1,500–2,500) us a step, lean 500 (500–750) us, 3.00 (2.50–3.50) times as fast"
    )
    assert "1.50 (1.50–1.50) times" in lean._line(1, [300.0], [200.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["--context", "1000"],
            "--context 1000 and 16 --steps in 7 --rounds and one to warm up come to 1128 tokens",
        ),
        (["--batches", "0"], "argument --batches: '0' is no whole number from 1"),
        (["--dtype", "float16"], "argument --dtype: invalid choice"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lean, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="2"):
        lean.main(arguments)
    assert message in capsys.readouterr().err


def test_each_batch_is_measured(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[tuple[Path, int]] = []

    def measure(path: Path, batch: int, options: object) -> tuple[list[float], list[float]]:
        asked.append((path, batch))
        return [2.0], [1.0]

    monkeypatch.setattr(lean, "measure", measure)
    assert lean.main(["--batches", "1", "4"]) == 0
    assert [batch for _, batch in asked] == [1, 4] and asked[0][0].name == "tiny"
    assert capsys.readouterr().out.count("2.00 (2.00–2.00) times as fast") == 2
