"""Files of live traffic: what is in them, when they are written, and that they stay within bounds."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import waiting
from clock import Clock
from routed import EXPERTS, sets

from moe_contract.applications import RecordConfig
from moe_placement.traces import Trace, read_trace, write_trace
from moe_serving.routing import trace_files
from moe_serving.routing.trace_files import FILE_SECONDS, PART_SECONDS, TraceFiles


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def recording(folder: Path, rows: int = 1000, most: int = 1 << 20) -> tuple[TraceFiles, Clock]:
    clock = Clock(1.8e9)
    files = TraceFiles(EXPERTS, clock)
    files.configure(RecordConfig(path=str(folder), sample_rows=rows, max_bytes=most))
    return files, clock


def write_due(files: TraceFiles) -> None:
    files.write_due()
    assert files.wait(20), "a file is written"


def test_nothing_is_written_unless_asked_for(tmp_path: Path) -> None:
    files = TraceFiles(EXPERTS, Clock(1.8e9))
    files.add(sets(5))
    write_due(files)
    files.close()
    assert files_of(tmp_path) == []


def test_a_file_has_all_rows_in_order_where_there_is_room(tmp_path: Path) -> None:
    files, clock = recording(tmp_path / "made" / "here")
    parts = [sets(3, seed=1), sets(2, seed=2)]
    for part in parts:
        files.add(part)
    clock.now += FILE_SECONDS - 1
    write_due(files)
    assert files_of(tmp_path / "made" / "here") == []
    clock.now += 1
    write_due(files)
    (file,) = files_of(tmp_path / "made" / "here")
    trace = read_trace(file)
    assert (trace.ids == np.concatenate([ids for ids, _ in parts])).all()
    assert trace.prompt.tolist() == [0, 0, 0, 1, 1]
    assert trace.gates is not None
    np.testing.assert_allclose(trace.gates, np.concatenate([gates for _, gates in parts]), atol=1e-3)
    assert file.stat().st_mode & 0o077 == 0, "for nobody else to read"
    write_due(files)
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
    mine = tmp_path / "trace-of-mine.npz"
    mine.write_bytes(b"x" * (2 << 20))
    files, clock = recording(tmp_path)
    old = tmp_path / "trace-19990101T000000-00000000.npz"
    old.write_bytes(b"x" * (1 << 20))
    files.add(sets(5))
    clock.now += FILE_SECONDS
    write_due(files)
    assert not old.exists()
    assert other.exists() and mine.exists(), "what is not ours stays"
    assert len(list(tmp_path.glob("trace-2*.npz"))) == 1
    assert files.problem is None


def test_a_file_beyond_the_bound_is_not_kept(tmp_path: Path) -> None:
    files, clock = recording(tmp_path, rows=100_000)
    files.add(sets(100_000))
    clock.now += FILE_SECONDS
    write_due(files)
    assert files_of(tmp_path) == []
    assert "bytes, of 1048576 allowed" in (files.problem or "")


def test_files_of_two_replicas_are_told_apart_and_share_the_bound(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    replicas = [recording(folder, rows=10_000) for _ in range(2)]
    for number in range(6):
        for files, clock in replicas:
            files.add(sets(10_000, seed=number))
            clock.now += FILE_SECONDS
            write_due(files)
            assert files.problem is None
    kept = files_of(folder)
    assert sum(file.stat().st_size for file in kept) <= 1 << 20 < 2 * sum(file.stat().st_size for file in kept)
    owners = [file.name.split("-")[2] for file in kept]
    assert len(set(owners)) == 2
    assert [file.name[-10:-4] for file in kept if file.name.split("-")[2] == owners[-1]][-1] == "000006"


@pytest.mark.parametrize(("bad", "says"), [("file/folder", "Not a directory"), ("file", "File exists")])
def test_a_folder_that_takes_no_file_is_told_at_once(tmp_path: Path, bad: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    files, _ = recording(tmp_path / bad)
    assert files.wait(20)
    assert re.fullmatch(rf"traffic cannot be recorded: \[Errno \d+\] {says}: '{tmp_path / bad}'", files.problem or "")
    files.configure(RecordConfig(path=str(tmp_path / "good")))
    assert files.wait(20)
    assert files.problem is None
    assert files_of(tmp_path / "good") == [], "a look leaves nothing"


def test_whatever_goes_wrong_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, trace: Trace) -> None:
        raise MemoryError

    monkeypatch.setattr(trace_files, "write_trace", fail)
    files, clock = recording(tmp_path)
    files.add(sets(5))
    clock.now += FILE_SECONDS
    write_due(files)
    assert files.problem == "traffic cannot be recorded: MemoryError"


def test_every_row_is_as_likely_to_stay(tmp_path: Path) -> None:
    files, _ = recording(tmp_path, rows=200)
    for number in range(100):
        files.add(sets(100, seed=number))
    files.close()
    windows = read_trace(files_of(tmp_path)[0]).prompt
    assert len(windows) == 200
    # Of 200 in ten tenths of the time 20 each; less than 5 is 4 standard deviations away.
    assert min(np.bincount(windows // 10, minlength=10)) >= 5


def test_what_cannot_be_written_is_told_and_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    files, _ = recording(tmp_path / "file")
    files.add(sets(5))
    files.close()
    files, clock = recording(tmp_path / "file")
    files.add(sets(5))
    clock.now += FILE_SECONDS
    write_due(files)
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
    write_due(files)
    assert files_of(tmp_path) == []
    assert "No space left" in (files.problem or "")


def test_what_a_killed_replica_left_is_removed_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    left, others = (tmp_path / f"trace-20260101T000000-0000000{number}.npz.part" for number in range(2))
    for part in (left, others):
        part.write_bytes(b"x")
    long_ago = time.time() - PART_SECONDS - 60
    os.utime(left, (long_ago, long_ago))
    files, clock = recording(tmp_path)
    files.add(sets(5))
    clock.now += FILE_SECONDS
    write_due(files)
    assert not left.exists()
    assert others.exists()


def test_a_file_system_that_stands_still_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def hang(path: Path, trace: Trace) -> None:
        begun.set()
        assert goes_on.wait(60)
        write_trace(path, trace)

    monkeypatch.setattr(trace_files, "write_trace", hang)
    monkeypatch.setattr(trace_files, "CLOSE_SECONDS", 0.01)
    folders = tmp_path / "one", tmp_path / "two"
    files, clock = recording(folders[0])
    other = RecordConfig(path=str(folders[1]))

    def use() -> None:
        """What the engine's thread and the loop do with it."""
        files.add(sets(5))
        clock.now += FILE_SECONDS
        files.write_due()
        assert begun.wait(20)
        files.add(sets(4))
        clock.now += FILE_SECONDS
        files.write_due()
        assert "still being written" in (files.problem or "")
        files.add(sets(3))
        files.configure(other)
        assert files.problem is None
        files.close()

    user = threading.Thread(target=use, daemon=True)
    user.start()
    user.join(20)
    assert not user.is_alive(), "nothing waits for the file"
    goes_on.set()
    assert files.wait(20)
    (file,) = files_of(folders[0])
    assert len(read_trace(file)) == 5, "what was recorded meanwhile is dropped"
    assert not files_of(folders[1]), "a look leaves nothing"
    files.configure(other)
    files.add(sets(2))
    files.configure(None)
    assert files.wait(20)
    assert len(read_trace(files_of(folders[1])[0])) == 2, "and it goes on after"


def test_a_folder_that_hangs_is_told_and_others_are_recorded_to_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a server that is away: whatever is asked of its folder waits, in a thread of its own."""
    goes_on, begin = threading.Event(), trace_files._begin

    def hang(folder: Path, name: str) -> Path:
        assert "hangs" not in folder.name or goes_on.wait(60)
        return begin(folder, name)

    monkeypatch.setattr(trace_files, "_begin", hang)
    monkeypatch.setattr(trace_files, "STILL_SECONDS", 0.05)
    files, clock = recording(tmp_path / "hangs")
    waiting.wait_until(lambda: files.problem is not None, "word of a folder that stands still", 20)
    told = f"traffic cannot be recorded: {tmp_path / 'hangs'} has not answered for more"
    assert (files.problem or "").startswith(told)
    monkeypatch.setattr(trace_files, "STILL_SECONDS", 60.0)
    files.configure(RecordConfig(path=str(tmp_path / "good")))
    assert files.problem is None
    files.add(sets(5))
    clock.now += FILE_SECONDS
    files.write_due()
    waiting.wait_until(lambda: bool(list((tmp_path / "good").glob("*.npz"))), "the file of the next recording", 20)

    before = threading.active_count()
    for number in range(2 * trace_files.MOST_LEFT):
        files.configure(RecordConfig(path=str(tmp_path / f"hangs-{number}")))
    assert threading.active_count() - before <= trace_files.MOST_LEFT
    assert "what was recorded before is still being written, to" in (files.problem or "")
    files.add(sets(3))
    goes_on.set()
    assert files.wait(20)
    files.write_due()
    assert files.problem is None, "it goes on by itself"
    files.add(sets(2))
    files.close()
    (file,) = files_of(tmp_path / f"hangs-{number}")
    assert len(read_trace(file)) == 2
