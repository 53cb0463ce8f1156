"""A process of each role ends at each step of a migration: it is started anew, and the migration comes to its end.

Two attention replicas answer greedily meanwhile, as every expert has two copies all the time: no table that any of them
gets ever lacks one, no answer fails, and each is the whole model's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from exactness import Tally, compare
from processes import DIRECTORY, RoleProcess, Setting, Stream
from reference import prompts, reference_greedy
from waiting import wait_until

from moe_contract.applications import DirectoryConfig, ModelArgs, ShardConfig, ShardRef
from moe_contract.report import DirectoryReport
from moe_placement import Placement
from moe_placement.encoding import decode_placement, encode_placement
from moe_serving.checkpoint import inspect_model
from moe_serving.faults import FaultPoint

SHARDS, COPIES, TOKENS, WAIT_S = 3, 2, 48, 180.0
SPARE = 2
NEVER = 1 << 40
BEFORE = [[0, 1, 2, 3, 4, 5], [4, 5, 6, 7, 0, 1], [6, 7, 2, 3]]
AFTER = [[6, 7, 2, 3, 4, 5], [4, 0, 6, 2, 3, 1], [0, 1, 7, 5]]
"""By shard, in every layer: all three lose copies and get others."""


class Plane:
    """See ``processes``: a directory, shards and two attention replicas."""

    def __init__(self, folder: Path, path: Path) -> None:
        self.path = path
        self._setting = Setting(folder, ModelArgs(path=str(path), dtype="float32", device="cpu"))
        self._facts = inspect_model(str(path), "float32")
        self._revisions = itertools.count(1)
        self._config: object = {}
        self.rows: list[list[int]] = []
        self.target: Placement | None = None
        self.stream = Stream(lambda: self.attention, prompts(1, seed=5)[0], TOKENS)
        self.processes: dict[str, RoleProcess] = {}
        for name in (DIRECTORY, *(f"shard-{i}" for i in range(SHARDS)), "attention-0", "attention-1"):
            self.start(name)
        self._first = tuple(self.processes.values())

    @property
    def attention(self) -> list[RoleProcess]:
        return [self.processes[name] for name in ("attention-0", "attention-1")]

    def start(self, name: str) -> None:
        """As Serve does: with the configuration that it had last."""
        self.processes[name] = process = RoleProcess(name, self._setting, self.stream.take)
        if name == DIRECTORY:
            process.call("configure", self._config)
        elif name.startswith("shard"):
            process.call("configure", ShardConfig(slots_per_shard=len(BEFORE[0]), spare_slots=SPARE))

    def place(self, rows: list[list[int]]) -> None:
        """What the directory is told; it may end over it."""
        self.rows = rows
        widths = [len(row) for row in rows]
        slots = [[expert for row in rows for expert in row]] * self._facts.layers
        self.target = Placement.of(slots, widths, self._facts.experts)
        self._config = DirectoryConfig(
            term=1,
            revision=next(self._revisions),
            shards=tuple(ShardRef(index=i, application=f"shard-{i}") for i in range(SHARDS)),
            slots_per_shard=len(BEFORE[0]),
            spare_slots=SPARE,
            min_copies=COPIES,
            placement=encode_placement(self.target),
        ).model_dump(mode="json")
        try:
            self.processes[DIRECTORY].call("configure", self._config)
        except ConnectionError:
            assert not self.processes[DIRECTORY].alive

    def settle(self) -> list[str]:
        """Until the target is in force and nothing else is held; who ends meanwhile is started anew, and named."""
        ended: list[str] = []
        wait_until(lambda: self._is_settled(ended), f"the migration to come to its end; {ended} have ended", WAIT_S)
        return ended

    def report(self) -> DirectoryReport | None:
        try:
            report: DirectoryReport = self.processes[DIRECTORY].call("report")
        except ConnectionError:
            return None
        return report

    def check_tables(self) -> None:
        """Every table that the directory put in force, or a replica got, has every expert; but for those at the very
        beginning, before there was a whole one.
        """
        for process in (self.processes[DIRECTORY], *self.attention):
            tables: list[tuple[int, bool]] = process.call("tables")
            if process in self._first:
                tables = list(itertools.dropwhile(lambda table: not table[1], tables))
            assert tables, f"{process.name} has no table"
            assert [epoch for epoch, complete in tables if not complete] == []

    def stop(self) -> None:
        self.stream.end()
        for process in self.processes.values():
            process.kill()

    def _is_settled(self, ended: list[str]) -> bool:
        for name, process in list(self.processes.items()):
            if not process.alive:
                process.kill()
                ended.append(name)
                self.start(name)
        report = self.report()
        if report is None or not report.progress.settled:
            return False
        known = {each.pid for each in (*report.shards, *report.attention)}
        if not known >= {process.pid for name, process in self.processes.items() if name != DIRECTORY}:
            return False  # it does not know yet that one has ended
        assert report.placement is not None
        assert self.target is not None
        return bool((decode_placement(report.placement).held == self.target.held).all())


@pytest.fixture(scope="module")
def plane(checkpoint_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    made = Plane(tmp_path_factory.mktemp("plane"), checkpoint_of("mixtral"))
    try:
        made.place(BEFORE)
        assert made.settle() == []
        made.stream.start()
        yield made
    finally:
        made.stop()


@contextmanager
def exact(plane: Plane) -> Iterator[None]:
    """Whole answers come meanwhile and after, and all of them are the whole model's."""
    begun = len(plane.stream.answers)
    yield
    after = len(plane.stream.answers)
    wait_until(lambda: len(plane.stream.answers) > after + 1 or plane.stream.error is not None, "answers", WAIT_S)
    assert plane.stream.error is None
    plane.check_tables()
    prompt = plane.stream.prompt
    (expected,) = reference_greedy(plane.path, [prompt], TOKENS)
    tally = Tally()
    for answer in set(plane.stream.answers[begun:]):
        compare(plane.path, prompt, expected, answer, plane.stream.resume, tally)
    assert not tally.excused


def roles(point: FaultPoint) -> list[str]:
    """Who passes it: of several replicas of a role, the one that is to end."""
    role = point.value.partition(":")[0]
    return {"directory": [DIRECTORY], "shard": ["shard-0", "shard-2"], "attention": ["attention-1"]}[role]


MATRIX = [(point, name, times) for point in FaultPoint for name in roles(point) for times in (1, 4)]
SAMPLE = [
    (FaultPoint.DIRECTORY_PUBLISHED, DIRECTORY, 1),
    (FaultPoint.SHARD_FILLED, "shard-2", 2),
    (FaultPoint.SHARD_SENDS, "shard-0", 2),
    (FaultPoint.ATTENTION_HEARD, "attention-1", 1),
]


def end_at(plane: Plane, point: FaultPoint, name: str, times: int, tries: int = 1) -> bool:
    """One migration, there or back, in which ``name`` ends at ``point``; whether it came by it so often.

    Args:
        tries: migrations. On a machine that stands still a shard is passed over for the checkpoint, say.
    """
    return any(_end_at(plane, point, name, times) for _ in range(tries))


def _end_at(plane: Plane, point: FaultPoint, name: str, times: int) -> bool:
    plane.processes[name].crash_at(point, times)
    with exact(plane):
        plane.place(AFTER if plane.rows is BEFORE else BEFORE)
        ended = plane.settle()
        if not ended:
            with suppress(ConnectionError):  # it passes the point just now
                plane.processes[name].crash_at(point, NEVER)
            ended = plane.settle()
    assert ended in ([], [name])
    return bool(ended)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("point", "name", "times"), SAMPLE)
def test_a_process_that_ends_at_a_step_of_a_migration(plane: Plane, point: FaultPoint, name: str, times: int) -> None:
    assert end_at(plane, point, name, times, tries=5)


@pytest.mark.whole
@pytest.mark.timeout(3600)
def test_every_process_ends_at_every_step(plane: Plane) -> None:
    """All roles, points and some times; the table that it prints says which of them were passed so often."""
    passed = {case: end_at(plane, *case, tries=3 if case[2] == 1 else 1) for case in MATRIX}
    for (point, name, times), came in passed.items():
        print(f"{point.value:60} {name:12} {times:2}. time  {'ended and recovered' if came else 'not passed so often'}")
    assert {point for (point, _, times), came in passed.items() if came and times == 1} == set(FaultPoint)
