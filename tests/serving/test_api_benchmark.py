"""What the benchmark of the api says of its processes: medians of rounds of right answers; once with real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import api, api_cost
from benchmarks.api_cost.measure import Load, Row, median, run
from benchmarks.api_cost.place import CLIENT, OURS, PROXY, Place
from benchmarks.serving.client import Outcome, Verdict

ROOT = Path(__file__).parents[2]


def row(api_ms: float, client_ms: float, tokens_per_second: float = 800.0, proxy_ms: float | None = None) -> Row:
    return Row("alone", 800, tokens_per_second, 1.0, api_ms, proxy_ms, client_ms)


def test_clocks_are_those_of_processes() -> None:
    place = Place("", {OURS: os.getpid()})
    before = place.cpu_seconds()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    after = place.cpu_seconds()
    assert 0.05 <= after[CLIENT] - before[CLIENT] < 1
    assert after[OURS] - before[OURS] == pytest.approx(after[CLIENT] - before[CLIENT], abs=0.01), "the same process"


@pytest.mark.parametrize(
    ("proxy", "median_", "printed"), [((None, None, None), None, "-"), ((0.6, 0.4, 0.9), 0.6, "0.600")]
)
def test_a_row_of_rounds_has_medians(proxy: tuple[float | None, ...], median_: float | None, printed: str) -> None:
    rounds = zip((0.3, 0.1, 0.2), (2.0, 4.0, 3.0), (700, 900, 100), proxy, strict=True)
    found = median([row(*each) for each in rounds])
    assert found == Row("alone", 800, 700, 1.0, 0.2, median_, 3.0)
    assert api.table([found]).splitlines()[1].split() == ["alone", "800", "700", "1.00", "0.200", printed, "3.000"]


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
    place, load = Place("http://nowhere/v1", {OURS: os.getpid(), PROXY: os.getpid()}), Load(4, 3, 50)
    if message:
        with pytest.raises(RuntimeError, match=message):
            run("proxy", place, load, [5, 6])
    else:
        found = run("proxy", place, load, [5, 6])
        assert (found.front, found.offered, found.tokens_per_event) == ("proxy", 200, 1.5)
        assert found.proxy_ms == pytest.approx(found.api_ms, abs=0.1), "the same process"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--streams", "0"], "argument --streams: '0' is no whole number from 1"),
        (["--tokens", "4096"], "--tokens 4096: at most 4080 fit behind the prompt"),
        (["--steps", "25", "5000"], "--steps 5000: at most 4095 a second"),
        (["--json", "{folder}"], "--json {folder} is a directory"),
        (["--fronts", "none"], "argument --fronts: invalid choice: 'none'"),
        (["--variables", "A=1"], "--variables: they are of the Ray; add proxy or direct to --fronts"),
        (["--fronts", "direct", "--profile", "a.prof"], "--profile: it is of the api alone; add alone to --fronts"),
        (["--variables", "RAY_X"], "argument --variables: 'RAY_X' is no NAME=VALUE"),
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


def test_all_fronts_are_there_at_once_and_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int, int]] = []

    @contextmanager
    def opened(fronts: list[str], variables: dict[str, str]) -> Iterator[dict[str, Place]]:
        assert variables == {"A": "b=c"}
        yield {front: Place(front, {}) for front in fronts}

    def run(front: str, place: Place, load: Load, ids: object) -> Row:
        assert place.url == front
        turns.append((front, load.steps_per_second, load.tokens))
        return replace(row(len(turns), 1.0), front=front, offered=load.steps_per_second)

    monkeypatch.setattr(api_cost, "served", SimpleNamespace(opened=opened), raising=False)  # the real one imports Ray
    monkeypatch.setattr(api, "run", run)
    wanted = ["--fronts", "direct", "proxy", "--steps", "1", "2", "--rounds", "2", "--variables", "A=b=c"]
    found = api.measure(api._parser().parse_args(wanted))
    once = [("proxy", 1), ("proxy", 2), ("direct", 1), ("direct", 2)]
    assert turns == [(*each, api.WARM_UP_TOKENS) for each in once] + [(*each, 128) for each in once + once[::-1]]
    assert [(each.front, each.offered) for each in found] == once


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_real_api_answers_a_stand_in(tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    wanted = ["--streams", "4", "--tokens", "12", "--steps", "50", "--rounds", "1"]
    assert api.main([*wanted, "--json", str(file), "--profile", str(tmp_path / "profile")]) == 0
    (found,) = json.loads(file.read_text())
    assert (found["front"], found["offered"], found["proxy_ms"]) == ("alone", 200, None)
    assert 0 < found["tokens_per_second"] <= 200 and found["tokens_per_event"] >= 1
    assert found["api_ms"] > 0 and found["client_ms"] > 0
    assert (tmp_path / "profile").stat().st_size > 0


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_real_api_on_serve_is_asked_by_the_proxy_and_past_it(tmp_path: Path) -> None:
    file = tmp_path / "api.json"
    wanted = ["--fronts", "proxy", "direct", "--streams", "4", "--tokens", "12", "--steps", "50", "--rounds", "1"]
    command = [sys.executable, "-m", "benchmarks.api", *wanted, "--json", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    proxy, direct = json.loads(file.read_text())
    assert (proxy["front"], direct["front"]) == ("proxy", "direct")
    assert proxy["proxy_ms"] > 0 and direct["proxy_ms"] is None
    assert proxy["api_ms"] > 0 and direct["api_ms"] > 0
