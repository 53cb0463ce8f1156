"""Files of live traffic: what is in them, when they are written, and that they stay within bounds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from moe_contract.applications import RecordConfig
from moe_placement.traces import Trace, read_trace
from moe_serving.routing.gatherer import Sets
from moe_serving.routing.trace_files import FILE_SECONDS, TraceFiles

LAYERS, EXPERTS, TOP_K = 3, 6, 2


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


def sets(rows: int, seed: int = 0) -> Sets:
    random = np.random.default_rng(seed)
    ids = np.argsort(random.random((rows, LAYERS, EXPERTS)), axis=2)[:, :, :TOP_K].astype(np.int16)
    return ids, random.random(ids.shape).astype(np.float32)


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def recording(folder: Path, rows: int = 1000, most: int = 1 << 20) -> tuple[TraceFiles, Clock]:
    clock = Clock()
    files = TraceFiles(EXPERTS, clock)
    files.configure(RecordConfig(path=str(folder), sample_rows=rows, max_bytes=most))
    return files, clock


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    files = TraceFiles(EXPERTS, Clock())
    files.add(sets(5))
    files.write_due()
    files.close()
    assert files_of(tmp_path) == []


def test_a_file_has_all_rows_in_order_where_there_is_room(tmp_path: Path) -> None:
    files, clock = recording(tmp_path / "made" / "here")
    parts = [sets(3, seed=1), sets(2, seed=2)]
    for part in parts:
        files.add(part)
    clock.now += FILE_SECONDS - 1
    files.write_due()
    assert not (tmp_path / "made").exists()
    clock.now += 1
    files.write_due()
    (file,) = files_of(tmp_path / "made" / "here")
    trace = read_trace(file)
    assert (trace.ids == np.concatenate([ids for ids, _ in parts])).all()
    assert trace.prompt.tolist() == [0, 0, 0, 1, 1]
    assert trace.gates is not None
    np.testing.assert_allclose(trace.gates, np.concatenate([gates for _, gates in parts]), atol=1e-3)
    assert file.stat().st_mode & 0o077 == 0, "for nobody else to read"
    files.write_due()
    files.close()
    assert len(files_of(file.parent)) == 1, "and is written once"


def test_of_many_rows_a_sample_is_written(tmp_path: Path) -> None:
    files, _ = recording(tmp_path, rows=50)
    for number in range(20):
        files.add(sets(100, seed=number))
    files.close()
    trace = read_trace(files_of(tmp_path)[0])
    assert len(trace) == 50
    assert (np.diff(trace.prompt) >= 0).all(), "in order of time"
    assert len(set(trace.prompt.tolist())) > 10, "from all of the time"
    known = {row.tobytes() for number in range(20) for row in sets(100, seed=number)[0]}
    assert {row.tobytes() for row in trace.ids} <= known


def test_the_oldest_leave(tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_bytes(b"x" * (2 << 20))
    files, clock = recording(tmp_path)
    old = tmp_path / "trace-19990101T000000-00000000.npz"
    old.write_bytes(b"x" * (1 << 20))
    files.add(sets(5))
    clock.now += FILE_SECONDS
    files.write_due()
    assert not old.exists()
    assert other.exists(), "what is not ours stays"
    assert len(list(tmp_path.glob("trace-*.npz"))) == 1
    assert files.problem is None


def test_a_file_beyond_the_bound_is_not_kept(tmp_path: Path) -> None:
    files, clock = recording(tmp_path, rows=100_000)
    files.add(sets(100_000))
    clock.now += FILE_SECONDS
    files.write_due()
    assert files_of(tmp_path) == []
    assert "bytes, of 1048576 allowed" in (files.problem or "")


def test_what_cannot_be_written_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files, _ = recording(tmp_path / "file")
    files.add(sets(5))
    files.close()
    files, clock = recording(tmp_path / "file")
    files.add(sets(5))
    clock.now += FILE_SECONDS
    files.write_due()
    assert "traffic cannot be recorded" in (files.problem or "")
    files.configure(RecordConfig(path=str(tmp_path / "folder")))
    assert files.problem is None


def test_a_file_that_was_not_completed_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, trace: Trace) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("moe_serving.routing.trace_files.write_trace", full)
    files, clock = recording(tmp_path)
    files.add(sets(5))
    clock.now += FILE_SECONDS
    files.write_due()
    assert files_of(tmp_path) == []
    assert "No space left" in (files.problem or "")
