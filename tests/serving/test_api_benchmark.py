"""What the benchmark of the api says of its processes: medians of rounds of right answers; once with real processes."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import api
from benchmarks.api_cost.measure import Load, Row, median, run
from benchmarks.api_cost.place import Place
from benchmarks.serving.client import Outcome, Verdict


def row(api_ms: float, client_ms: float, tokens_per_second: float = 800.0) -> Row:
    return Row(800, tokens_per_second, 1.0, api_ms, client_ms)


def test_clocks_are_those_of_processes() -> None:
    place = Place("", os.getpid())
    before = place.cpu_seconds()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    after = place.cpu_seconds()
    assert 0.05 <= after[1] - before[1] < 1
    assert after[0] - before[0] == pytest.approx(after[1] - before[1], abs=0.01), "the same process"


def test_a_row_of_rounds_has_medians() -> None:
    found = median([row(0.3, 2.0, 700), row(0.1, 4.0, 900), row(0.2, 3.0, 100)])
    assert found == Row(800, 700, 1.0, 0.2, 3.0)
    assert api.table([found]).splitlines()[1].split() == ["800", "700", "1.00", "0.200", "3.000"]


@pytest.mark.parametrize(
    ("ids", "verdict", "message"),
    [
        ([5, 6, 5], Verdict.COMPLETE, ""),
        ([5, 6, 6], Verdict.COMPLETE, "another answer than the stand-in's"),
        ([5, 6], Verdict.CUT_OFF, "an answer is cut off: because"),
    ],
)
def test_only_right_answers_count(ids: list[int], verdict: Verdict, message: str, monkeypatch) -> None:
    async def ask(self: object, ask: object) -> Outcome:
        return Outcome(ask, 0.0, verdict, "because", token_ids=ids, gaps=[0.1])

    monkeypatch.setattr("benchmarks.serving.client.Client.ask", ask)
    place, load = Place("http://nowhere/v1", os.getpid()), Load(4, 3, 50)
    if message:
        with pytest.raises(RuntimeError, match=message):
            run(place, load, [5, 6])
    else:
        found = run(place, load, [5, 6])
        assert (found.offered, found.tokens_per_event) == (200, 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streams", "0"], "argument --streams: '0' is no whole number from 1"),
        (["--tokens", "4096"], "--tokens 4096: at most 4080 fit behind the prompt"),
        (["--steps", "25", "5000"], "--steps 5000: at most 4095 a second"),
        (["--json", "{folder}"], "--json {folder} is a directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(api, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="2"):
        api.main([argument.format(folder=tmp_path) for argument in arguments])
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_rows_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[SimpleNamespace] = []
    monkeypatch.setattr(api, "measure", lambda options: asked.append(options) or [row(0.3, 2.0)])
    file = tmp_path / "api.json"
    assert api.main(["--steps", "10", "--json", str(file)]) == 0
    assert (asked[0].steps, asked[0].streams) == ([10], 32)
    assert [each["api_ms"] for each in json.loads(file.read_text())] == [0.3]
    assert "2.000" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_real_api_answers_a_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    wanted = ["--streams", "4", "--tokens", "12", "--steps", "50", "--rounds", "1"]
    assert api.main([*wanted, "--json", str(file), "--profile", str(tmp_path / "profile")]) == 0
    (found,) = json.loads(file.read_text())
    assert found["offered"] == 200
    assert 0 < found["tokens_per_second"] <= 200 and found["tokens_per_event"] >= 1
    assert found["api_ms"] > 0 and found["client_ms"] > 0
    assert (tmp_path / "profile").stat().st_size > 0
