"""Processes of a node wait for each other as long as whoever has a lock gets on, and then say whom they waited for."""

import fcntl
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest
from parted import EVEN, FILES, ODD
from stub_hub import REPOSITORY, REVISION, StubHub

from moe_serving.checkpoint import ModelError
from moe_serving.fetching import fetch, locks
from moe_serving.fetching.cache import Cache
from moe_serving.fetching.fetch import bring, local_model
from moe_serving.fetching.locks import STILL_SECONDS, locked, take, try_to_take

MODEL = f"hf://{REPOSITORY}@{REVISION}"
MYSELF = rf"process {os.getpid()} of {socket.gethostname()}, since 2\S+Z"


class Clock:
    """In place of ``time``: who waits lets it pass.

    Attributes:
        plan: what is done at which second.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.plan: dict[float, Callable[[], object]] = {}

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for due in sorted(each for each in self.plan if each <= self.now):
            self.plan.pop(due)()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(locks, "time", clock)
    return clock


@pytest.fixture
def held(tmp_path: Path) -> IO[bytes]:
    """A lock that somebody has."""
    stream = (tmp_path / "lock").open("ab")
    assert try_to_take(stream, fcntl.LOCK_EX)
    return stream


def wait_for(held: IO[bytes], moved: Callable[[], object] = lambda: None, how: int = fcntl.LOCK_EX) -> None:
    with held, Path(held.name).open("ab") as mine:
        take(mine, how, moved)


def test_it_is_had_once_whoever_has_it_ends(clock: Clock, held: IO[bytes]) -> None:
    clock.plan[STILL_SECONDS - 10] = held.close
    wait_for(held)
    assert clock.now == pytest.approx(STILL_SECONDS - 10, abs=1.0)


@pytest.mark.parametrize("how", [fcntl.LOCK_EX, fcntl.LOCK_SH])
def test_whoever_stands_still_is_not_waited_for_for_ever(clock: Clock, held: IO[bytes], how: int) -> None:
    with pytest.raises(ModelError, match=r"^waited 600 s for the lock \S+/lock, and .* who has it \(another process"):
        wait_for(held, how=how)
    assert clock.now == pytest.approx(STILL_SECONDS, rel=0.1)


def test_whoever_gets_on_is_waited_for(clock: Clock, held: IO[bytes]) -> None:
    came: list[int] = []
    for number in range(1, 6):
        clock.plan[500.0 * number] = lambda: came.append(1)
    with pytest.raises(ModelError, match="waited 600 s"):
        wait_for(held, lambda: len(came))
    assert clock.now == pytest.approx(2500 + STILL_SECONDS, rel=0.1)


def test_when_it_has_gone_on_to_another_one_that_one_is_waited_for(clock: Clock, held: IO[bytes]) -> None:
    clock.plan[500.0] = lambda: Path(held.name).write_text("7 other-host 2026-01-02T03:04:05Z")
    with pytest.raises(ModelError, match=r"\(process 7 of other-host, since 2026-01-02T03:04:05Z\): end that process"):
        wait_for(held)
    assert clock.now == pytest.approx(500 + STILL_SECONDS, rel=0.1)


@pytest.mark.parametrize("text", [b"", b"\xff" * 500, b"x y z", b"7 other host 2026-01-02T03:04:05Z"])
def test_what_is_no_name_of_a_process_is_not_repeated(clock: Clock, held: IO[bytes], text: bytes) -> None:
    Path(held.name).write_bytes(text)
    with pytest.raises(
        ModelError, match=r"who has it \(another process, of which no more is known\): end that process"
    ):
        wait_for(held)


def test_for_as_long_as_who_waits_stands_still_itself_nobody_is_blamed(clock: Clock, held: IO[bytes]) -> None:
    def freeze() -> None:
        clock.now += 10 * STILL_SECONDS

    clock.plan |= {1.0: freeze, 10 * STILL_SECONDS + 100: held.close}
    wait_for(held)


def test_who_waits_may_be_told_to_wait_no_more(clock: Clock, held: IO[bytes]) -> None:
    asked: list[float] = []

    def meanwhile() -> None:
        asked.append(clock.now)
        if len(asked) == 5:
            raise KeyboardInterrupt

    with held, Path(held.name).open("ab") as mine, pytest.raises(KeyboardInterrupt):
        take(mine, fcntl.LOCK_EX, meanwhile=meanwhile)
    assert clock.now == pytest.approx(5.0, rel=0.2)


def test_who_has_it_says_so_also_where_the_disk_is_full(
    clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lock"
    for _ in range(2):
        with locked(file), file.open("ab") as mine, pytest.raises(ModelError, match=rf"\({MYSELF}\)"):
            take(mine, fcntl.LOCK_EX)
    with monkeypatch.context() as once:
        once.setattr("moe_serving.fetching.locks.os.write", no_space)
        with locked(file):
            pass


def no_space(*_: object) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("lock", ["lock", "room", "used"])
def test_each_wait_of_a_model_has_an_end_and_names_the_lock(clock: Clock, hub: StubHub, cache: Path, lock: str) -> None:
    cache.mkdir()
    name = f"{REPOSITORY.replace('/', '--')}--{REVISION}"
    file = cache / ("room" if lock == "room" else f"{name}.{lock}")
    with locked(file):
        if lock == "used":
            os.truncate(file, 0)  # of that lock nobody says who has it: its time tells when it was used
        with pytest.raises(ModelError, match=rf"waited 600 s for the lock {file}, and meanwhile") as caught:
            local_model(MODEL)
    assert caught.value.reason == "DownloadFailed"
    assert bool(re.search(MYSELF, str(caught.value))) == (lock != "used")
    assert local_model(MODEL)


def test_a_file_is_waited_for_while_bytes_of_the_model_come(clock: Clock, hub: StubHub) -> None:
    path = Path(local_model(MODEL))
    heard: list[tuple[int, int]] = []
    part = path / "arriving"
    for number in range(1, 4):
        clock.plan[500.0 * number] = lambda number=number: part.write_bytes(bytes(number))  # type: ignore[misc]
    with (
        Cache.of_environment().fetching(path.name),
        pytest.raises(ModelError, match=rf"waited 600 s for the lock \S+{path.name}.lock, .*\({MYSELF}\)"),
    ):
        bring(MODEL, [path / EVEN], heard=lambda *told: heard.append(told))
    assert clock.now == pytest.approx(1500 + STILL_SECONDS, rel=0.1)
    small = sum(len(content) for name, content in hub.files.items() if name not in FILES)
    assert set(heard) == {(small, small + len(hub.files[EVEN]))}
    part.unlink()
    bring(MODEL, [path / EVEN])
    assert hub.gets[EVEN] == 1


@pytest.mark.parametrize("doubted", [False, True])
def test_while_one_waits_it_hears_what_the_other_one_has_noted_and_may_give_up(
    clock: Clock, hub: StubHub, doubted: bool
) -> None:
    path, cache = Path(local_model(MODEL)), Cache.of_environment()

    def give_up(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with cache.fetching(path.name), pytest.raises(RuntimeError, match="7 of 9"):
        cache.want(path.name, [EVEN])
        cache.note_progress(path.name, 7, 9)
        cache.change_listing(path.name, lambda now: replace(now, doubted=doubted))
        bring(MODEL, [path / EVEN], heard=give_up)
    assert clock.now < 5


def test_between_two_files_others_that_wait_may_have_the_lock(hub: StubHub, monkeypatch: pytest.MonkeyPatch) -> None:
    path, cache = Path(local_model(MODEL)), Cache.of_environment()
    found: list[float] = []

    class Noted(Clock):
        def sleep(self, seconds: float) -> None:
            with (cache.path / f"{path.name}.lock").open("ab") as stream:
                assert try_to_take(stream, fcntl.LOCK_EX)
            found.append(seconds)

    monkeypatch.setattr(fetch, "time", Noted())
    bring(MODEL, [path / EVEN, path / ODD])
    assert len(found) == 1
    assert found[0] > locks.TRY_SECONDS, "who waits tries meanwhile"
