"""What `benchmarks.loading` makes of rounds, how it cuts files, and that it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import loading
from benchmarks.reading.plain import Span, Taken, merged, read, shares

A, B = Path("a"), Path("b")


def test_places_that_touch_are_read_as_one() -> None:
    spans = [Span(B, 0, 2), Span(A, 4, 6), Span(A, 0, 4), Span(A, 7, 9)]
    assert merged(spans) == [Span(A, 0, 6), Span(A, 7, 9), Span(B, 0, 2)]


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
def test_shares_are_of_one_size_and_all_there_is(count: int) -> None:
    spans = [Span(A, 0, 6), Span(A, 7, 9), Span(B, 0, 2)]
    parts = shares(spans, count)
    sizes = [sum(span.end - span.begin for span in part) for part in parts]
    assert len(parts) == count and sum(sizes) == 10 and max(sizes) <= -(-10 // count)
    assert merged(span for part in parts for span in part) == spans


def test_a_file_is_read_as_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(1000))
    for keep in (True, False):
        assert read([Span(file, 100, 900)], 3, keep=keep).bytes == 800
    with pytest.raises(OSError, match="ends at 1000"):
        read([Span(file, 900, 1100)], 1, keep=True)


def test_shares_of_the_plain_way_are_of_its_own_round() -> None:
    def one(seconds: float, cpu: float) -> Taken:
        return Taken(10**9, seconds, cpu)

    rounds = [
        {way: one(1.0, 1.0) for way in loading.WORDS} | {"shard": one(2.0, 4.0)},
        {way: one(4.0, 1.0) for way in loading.WORDS} | {"shard": one(5.0, 5.0)},
        {way: one(1.0, 1.0) for way in loading.WORDS} | {"shard": one(2.0, 4.0)},
    ]
    told = {row["way"]: row for row in loading.rows(rounds)}
    shard = told[loading.WORDS["shard"]]
    assert shard["gb_per_s"][0] == 0.5 and shard["cpu_s_per_gb"][0] == 4.0
    assert shard["of_plain"] == [0.5, 0.5, 0.65] and shard["cpu_of_plain"][0] == 0.25
    assert told[loading.WORDS["memory"]]["of_plain"] is None
    line = (
        "| a shard, from the checkpoint | 0.50 (0.35–0.50) | 4.00 (4.00–4.50) | 0.50 (0.50–0.65) | 0.25 (0.23–0.25) |"
    )
    assert line in loading.table("float32", rounds, cold=False)


@pytest.mark.torch
def test_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    assert loading.main(["--short", "--rounds", "1", "--dtypes", "float32", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["way"] for row in rows] == [*loading.WORDS.values()]
    assert all(row["gb_per_s"][0] > 0 for row in rows)
    assert "a shard, from another by TCP" in capsys.readouterr().out
