"""Where a step goes: sections inside each other add up, and what shards worked is not counted as waiting."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from benchmarks import step
from benchmarks.contest.sections import Sections


@pytest.fixture
def sections() -> Sections:
    """A second passes from each look at the clock to the next."""
    return Sections(itertools.count().__next__)


def nested(*inner: Callable[[], object]) -> Callable[[], None]:
    def call() -> None:
        for each in inner:
            each()

    return call


def test_each_counts_what_the_inner_ones_leave(sections: Sections) -> None:
    wire = sections.timed("wire", nested(sections.timed("pack", lambda: None)))
    root = sections.root("rest", nested(wire, wire), lambda: True)
    root()
    # Looks: root 0, wire 1, pack 2–3, end of wire 4, wire 5, pack 6–7, end of wire 8, end of root 9.
    assert dict(sections.seconds) == {"rest": 3, "wire": 4, "pack": 2}
    assert sections.calls == {"rest": 1, "wire": 2, "pack": 2}
    assert sum(sections.seconds.values()) == 9, "all that passed"


def test_outside_a_root_nothing_is_counted(sections: Sections) -> None:
    inner = sections.timed("pack", lambda value: value + 1)
    root = sections.root("rest", inner, lambda value: value > 5)
    assert (inner(1), root(2), root(6)) == (2, 3, 7)
    assert sections.calls == {"rest": 1, "pack": 1}


def test_a_call_that_fails_ends_its_section(sections: Sections) -> None:
    def fail() -> None:
        raise ValueError

    root = sections.root("rest", sections.timed("pack", fail), lambda: True)
    for _ in range(2):
        with pytest.raises(ValueError):
            root()
    assert sections.calls == {"rest": 2, "pack": 2}
    assert dict(sections.seconds) == {"rest": 4, "pack": 2}


@pytest.mark.parametrize(("busy_s", "compute", "wire"), [(0.6, 600, 400), (1.4, 1000, 0)])
def test_what_shards_worked_is_no_waiting(busy_s: float, compute: float, wire: float, sections: Sections) -> None:
    sections.seconds.update({step.WIRE: 1.0, step.REST: 2.0, "pack": 0.5})
    sections.calls.update({step.WIRE: 4000, step.REST: 1000, "pack": 2000})
    found = {row.section: row for row in step.rows(8, 1000, sections, busy_s)}
    assert list(found) == list(step.NAMES)
    assert found["compute"].microseconds == pytest.approx(compute)
    assert found["wire"].microseconds == pytest.approx(wire)
    assert sum(row.microseconds for row in found.values()) == pytest.approx(3500)
    assert (found["wire"].calls, found["pack"].calls, found["gate"].calls) == (4, 2, 0)
    text = step.table(list(found.values()))
    assert text.startswith("batch 8: 3,500 us a step, 2,286 tokens/s")
    assert "pack" in text and "14.3%" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "7b"], "argument --model: invalid choice: '7b'"),
        (["--batches", "0"], "argument --batches: '0' is no whole number from 1"),
        (["--steps", "2000"], "--steps 2000 behind prompts of 16 tokens exceeds the 1024 tokens that model tiny takes"),
        (["--json", "{folder}"], "--json {folder} is a directory"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(step, "measure", lambda *_: pytest.fail("measured"))
    with pytest.raises(SystemExit, match="2"):
        step.main([argument.format(folder=tmp_path) for argument in arguments])
    assert message.format(folder=tmp_path) in capsys.readouterr().err


def test_rows_are_printed_and_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[SimpleNamespace] = []
    rows = [step.Row(8, "gate", 100.0, 6), step.Row(8, "wire", 300.0, 12)]
    monkeypatch.setattr(step, "measure", lambda path, options: asked.append(options) or rows)
    file = tmp_path / "step.json"
    assert step.main(["--batches", "8", "--network", "tcp", "--json", str(file)]) == 0
    assert (asked[0].network, asked[0].steps, asked[0].shards) == ("tcp", 200, 2)
    assert [row["section"] for row in json.loads(file.read_text())] == ["gate", "wire"]
    assert "batch 8: 400 us a step, 20,000 tokens/s" in capsys.readouterr().out
