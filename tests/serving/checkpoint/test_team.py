"""Threads that share work: each part is done once, errors reach the caller, and helpers end with their team."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest
from waiting import wait_until

from moe_serving.checkpoint.team import Team

WAIT_S = 30.0


def helpers() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "team-helper"}


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_each_part_is_done_once(size: int, count: int) -> None:
    team, done = Team(size), list[int]()
    for _ in range(3):
        team.do(range(count), done.extend)
    assert sorted(done) == sorted([*range(count)] * 3)


def test_where_no_more_threads_may_be_started_the_caller_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    team, done = Team(4), list[int]()
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        for _ in range(3):
            team.do(range(5), done.extend)
    assert sorted(done) == sorted([*range(5)] * 3)
    assert team._calls.empty(), "what nobody takes is kept by nobody"


def test_they_work_side_by_side() -> None:
    together = threading.Barrier(3, timeout=WAIT_S)

    def work(parts: Iterator[int]) -> None:
        for _ in parts:
            together.wait()

    Team(3).do(range(3), work)


def test_whoever_fails_the_caller_hears_of_it_and_the_rest_is_left() -> None:
    team, caller, begun = Team(2), threading.current_thread(), threading.Event()
    for fails_in_caller in (True, False):
        begun.clear()
        done: list[int] = []

        def work(parts: Iterator[int], fails_in_caller: bool = fails_in_caller, done: list[int] = done) -> None:
            for part in parts:
                if (threading.current_thread() is caller) == fails_in_caller:
                    begun.set()
                    raise OSError(f"part {part}")
                assert begun.wait(WAIT_S)
                done.append(part)

        with pytest.raises(OSError, match="part"):
            team.do(range(1000), work)
        assert len(done) < 1000
    later: list[int] = []
    team.do(range(10), later.extend)
    assert sorted(later) == [*range(10)]


def test_helpers_end_with_their_team() -> None:
    before = helpers()
    team = Team(3)
    assert helpers() == before, "none is started before it is needed"
    together = threading.Barrier(3, timeout=WAIT_S)
    team.do(range(3), lambda parts: [together.wait() for _ in parts] and None)
    started = helpers() - before
    assert len(started) == 2
    del team
    gc.collect()
    wait_until(lambda: not any(thread.is_alive() for thread in started), "the helpers to end", WAIT_S)
