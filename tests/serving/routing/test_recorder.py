"""Every row is counted once, by the table it was routed by, whenever somebody looks; against the plain way to count."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict

import numpy as np
import pytest
from clock import Clock
from fake_shards import table_of
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement.dispatch import NOBODY
from moe_serving.routing import block, recorder
from moe_serving.routing.gatherer import Sets
from moe_serving.routing.recorder import Recorder
from moe_serving.routing.steps import PAUSE_SECONDS, StepCounts
from moe_serving.routing.table import RoutingTable
from moe_serving.routing.window import Window

LAYERS, EXPERTS, TOP_K = 3, 6, 2
NODES = ("a", "b", "a")
TABLES = [
    table_of(np.ones((LAYERS, EXPERTS, shards), dtype=bool), epoch, NODES[:shards])
    for epoch, shards in enumerate((2, 3, 3), start=1)
]


class PlainCount:
    """What windows must say of one table."""

    def __init__(self) -> None:
        self.load: Counter[tuple[int, int]] = Counter()
        self.rows: Counter[int] = Counter()
        self.pairs: Counter[tuple[int, int]] = Counter()
        self.visits: Counter[tuple[int, int]] = Counter()
        self.remote: Counter[int] = Counter()
        self.failovers = 0

    def add(self, layer: int, choice: np.ndarray) -> None:
        for row in choice.tolist():
            asked = [shard for shard in row if shard != NOBODY]
            self.pairs.update((layer, shard) for shard in asked)
            self.visits.update((layer, shard) for shard in set(asked))
            self.remote[layer] += len({NODES[shard] for shard in asked} - {"a"})

    def add_rows(self, layer: int, ids: np.ndarray) -> None:
        self.load.update((layer, expert) for expert in ids.ravel().tolist())
        self.rows[layer] += len(ids)


def nonzero(counts: np.ndarray) -> dict[object, int]:
    return {(place if len(place) > 1 else place[0]): int(n) for place, n in np.ndenumerate(counts) if n}


def told(windows: list[Window]) -> dict[int, tuple[object, ...]]:
    """By epoch, summed; each report's windows must be of distinct tables."""
    sums: dict[int, Window] = {}
    for window in windows:
        if window.version.epoch in sums:
            sums[window.version.epoch].add(window)
        else:
            sums[window.version.epoch] = window
    return {
        epoch: (*map(nonzero, (of.load, of.rows, of.pairs, of.visits, of.remote)), of.failovers)
        for epoch, of in sums.items()
    }


STEPS = st.lists(
    st.fixed_dictionaries(
        {
            "rows": st.integers(1, 7),
            "ends": st.integers(0, LAYERS - 1),  # the last layer that it comes to
            "changes": st.sets(st.integers(0, LAYERS - 1)),  # layers before which another table comes into force
            "again": st.sets(st.integers(0, LAYERS - 1)),
            "moves": st.sets(st.integers(0, LAYERS - 1)),  # layers asked for again by another table
            "takes": st.sets(st.integers(0, LAYERS - 1)),
        }
    ),
    max_size=12,
)


@settings(deadline=None)  # a busy machine is no failure
@given(STEPS, st.integers(0, 2**32), st.sampled_from([1, 8, 1024]))
def test_each_row_is_counted_once_by_its_table(steps: list[dict], seed: int, block_rows: int) -> None:
    random, tables = np.random.default_rng(seed), iter([*TABLES[1:], *[None] * 99])
    windows: list[Window] = []
    got: list[Sets] = []
    whole: list[np.ndarray] = []
    counted = Recorder("a", got.append)
    expected: dict[int, PlainCount] = defaultdict(PlainCount)
    table = TABLES[0]

    def choice(table: RoutingTable, rows: int) -> np.ndarray:
        return random.integers(NOBODY, len(table.shards), (rows, TOP_K))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(block, "ROWS", block_rows)
        patched.setattr(block, "MOST_UNREAD", block_rows)
        patched.setattr(recorder, "MOST_NOTED", block_rows)
        patched.setattr(recorder, "MOST_CLOSED", 1)
        for step in steps:
            chosen, routed = [], set()
            for layer in range(step["ends"] + 1):
                if layer in step["changes"]:
                    table = next(tables) or table
                rows = step["rows"]
                ids = np.argsort(random.random((rows, EXPERTS)), axis=1)[:, :TOP_K]
                asked = choice(table, rows)
                counted.record(table, layer, ids, np.ones(ids.shape, dtype=np.float32), asked)
                chosen.append(ids)
                routed.add(table.version.epoch)
                plain = expected[table.version.epoch]
                plain.add_rows(layer, ids)
                plain.add(layer, asked)
                if layer in step["again"]:
                    if layer in step["moves"]:
                        table = next(tables) or table
                        plain = expected[table.version.epoch]
                    asked = choice(table, rows)
                    counted.record_again(table, layer, asked, failovers=1)
                    plain.add(layer, asked)
                    plain.failovers += 1
                if layer in step["takes"]:
                    taken = counted.take()
                    assert len({window.version for window in taken}) == len(taken)
                    windows += taken
            if len(chosen) == LAYERS and len(routed) == 1:
                whole.append(np.stack(chosen, axis=1))
        # A step that did not come to its end is told when the next one has.
        for layer in range(LAYERS):
            ids = np.tile(np.arange(TOP_K), (1, 1))
            counted.record(table, layer, ids, np.ones(ids.shape, dtype=np.float32), asked := choice(table, 1))
            expected[table.version.epoch].add_rows(layer, ids)
            expected[table.version.epoch].add(layer, asked)
        whole.append(np.broadcast_to(np.arange(TOP_K), (1, LAYERS, TOP_K)))
        windows += counted.take()
    assert not counted.has_windows
    assert np.array_equal(np.concatenate([ids for ids, _ in got]), np.concatenate(whole))
    assert told(windows) == {
        epoch: (
            *(dict(counts) for counts in (of.load, of.rows, of.pairs, of.visits)),
            {layer: n for layer, n in of.remote.items() if n},
            of.failovers,
        )
        for epoch, of in expected.items()
    }


def one_step(counted: Recorder, table: RoutingTable, layers: int = LAYERS) -> None:
    ids = np.array([[0, 1]])
    for layer in range(layers):
        counted.record(table, layer, ids, np.ones((1, 2), dtype=np.float32), np.array([[0, 1]]))


def test_a_window_is_over_after_a_time_or_with_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Recorder("a")
    assert not counted.has_windows
    one_step(counted, TABLES[0])
    assert not counted.has_windows
    one_step(counted, TABLES[1])
    assert counted.has_windows
    assert [window.version.epoch for window in counted.take()] == [1, 2]
    monkeypatch.setattr(recorder, "WINDOW_SECONDS", 0.01)
    one_step(counted, TABLES[1])
    time.sleep(0.02)
    assert counted.has_windows


def test_the_step_under_way_is_left_for_later() -> None:
    counted = Recorder("a")
    one_step(counted, TABLES[0], layers=LAYERS - 1)
    assert counted.take() == ()
    counted.record(TABLES[0], LAYERS - 1, np.array([[0, 1]]), np.ones((1, 2), dtype=np.float32), np.array([[0, 1]]))
    (window,) = counted.take()
    assert window.rows.tolist() == [1] * LAYERS


def test_a_window_says_of_shards_by_their_index() -> None:
    """Positions in a table are not: a shard in the middle may be away."""
    full = TABLES[1]
    table = RoutingTable(full.version, (full.shards[0], full.shards[2]), full.held[:, :, [0, 2]], term=3, revision=4)
    counted = Recorder("elsewhere")
    one_step(counted, table)
    (window,) = counted.take()
    assert window.pairs.tolist() == [[1, 0, 1]] * LAYERS
    assert window.nodes == ("a", "", "a")
    assert window.remote.tolist() == [1] * LAYERS
    assert (window.term, window.revision) == (3, 4)


def test_memory_is_bounded_while_nobody_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "ROWS", 4)
    counted = Recorder("a")
    for _ in range(200):
        one_step(counted, TABLES[0])
    assert len(counted._closed) <= recorder.MOST_CLOSED
    (window,) = counted.take()
    assert window.rows.tolist() == [200] * LAYERS


def test_notes_are_filed_before_they_are_many() -> None:
    """20 bytes for each pair, of the rows that two bounds allow; a step beyond them is filed when it has ended."""
    counted = Recorder("a")
    for rows in (1, 8, 300):
        ids = np.tile([0, 1], (rows, 1))
        for _ in range(200):
            for layer in range(LAYERS):
                counted.record(TABLES[0], layer, ids, ids.astype(np.float32), ids)
            counted.note_step(rows, rows, 0.01)
            assert sum(note.rows for note in counted._notes) < recorder.MOST_NOTED
            assert counted._block is None or sum(step.rows for step in counted._block._unread) < block.MOST_UNREAD
    (window,) = counted.take()
    assert window.rows.tolist() == [200 * 309] * LAYERS
    assert (window.steps.steps, window.steps.rows) == (600, 200 * 309)


def test_what_a_layer_is_recorded_from_may_be_overwritten() -> None:
    got: list[Sets] = []
    counted = Recorder("a", got.append)
    ids, gates = np.zeros((2, 2), dtype=np.int64), np.zeros((2, 2), dtype=np.float32)
    for layer in range(LAYERS):
        ids[:], gates[:] = [[layer, layer + 1], [layer + 2, layer + 3]], layer
        counted.record(TABLES[1], layer, ids, gates, choice := ids % 3)
        choice[:] = ids[:] = 0
        gates[:] = 9.0
    (window,) = counted.take()
    assert window.pairs.tolist() == [[2, 1, 1], [1, 2, 1], [1, 1, 2]]
    ((told, weights),) = got
    assert told.tolist() == [[[n, n + 1] for n in range(LAYERS)], [[n + 2, n + 3] for n in range(LAYERS)]]
    assert weights.tolist() == [[[float(n)] * 2 for n in range(LAYERS)]] * 2


def test_rows_are_counted_once_while_another_thread_takes() -> None:
    got: list[Sets] = []
    windows: list[Window] = []
    counted, ended = Recorder("a", got.append), threading.Event()
    taken_between: list[int] = []

    def take() -> None:
        while not ended.is_set():
            if counted.has_windows:
                windows.extend(found := counted.take())
                taken_between.append(len(found))

    taker = threading.Thread(target=take)
    taker.start()
    steps = 600
    for step in range(steps):
        one_step(counted, TABLES[step // 250])
        counted.note_step(1, 1, 0.01)
        if step == steps // 2:
            until = time.monotonic() + 30.0
            while not taken_between:
                assert time.monotonic() < until, "waited 30 s for the thread that takes windows"
                time.sleep(0.01)
    ended.set()
    taker.join(60.0)
    assert not taker.is_alive(), "waited 60 s for the thread that takes windows"
    windows += counted.take()
    by_table: Counter[int] = Counter()
    for window in windows:
        by_table[window.version.epoch] += int(window.rows[-1])
    assert by_table == {1: 250, 2: 250, 3: 100}
    assert sum(window.steps.steps for window in windows) == steps
    assert sum(len(ids) for ids, _ in got) == steps


def test_a_row_that_overflowed_is_counted_but_no_statistics_are_made_of_it() -> None:
    got: list[Sets] = []
    counted = Recorder("a", got.append)
    ids = np.array([[0, 1], [2, 3], [4, 5]])
    gates = np.full(ids.shape, 0.5, dtype=np.float32)
    for layer in range(LAYERS):
        wrong = {1: np.nan, 2: np.inf}.get(layer, 0.5)
        gates[1, 1] = wrong
        counted.record(TABLES[0], layer, ids, gates, np.zeros(ids.shape, dtype=np.int64))
    (window,) = counted.take()
    assert window.rows.tolist() == [3] * LAYERS
    ((told, finite),) = got
    assert told[:, 0].tolist() == [[0, 1], [4, 5]]
    assert (finite == 0.5).all()


def test_statistics_that_fail_cost_neither_a_step_nor_its_count(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(sets: Sets) -> None:
        raise ValueError("no room")

    monkeypatch.setattr(block, "ROWS", 4)
    counted = Recorder("a", fail)
    steps = 8 * recorder.MOST_CLOSED
    for _ in range(steps):
        one_step(counted, TABLES[0])
    (window,) = counted.take()
    assert window.rows.tolist() == [steps] * LAYERS
    assert "ValueError: no room" in caplog.text


def test_windows_tell_in_what_time_their_steps_came() -> None:
    clock = Clock(100.0)
    counted = Recorder("a", clock=clock)
    for pause in (0.5, 0.25, 60.0):
        one_step(counted, TABLES[0])
        clock.now += pause
        counted.note_step(1, 1, pause, 9)
    (window,) = counted.take()
    assert window.steps.seconds == 0.5 + 0.25 + PAUSE_SECONDS, "a minute of it was without traffic"
    assert window.steps.context == 27
    two, one = StepCounts(seconds=2.0, context=5), StepCounts(seconds=1.0, context=1)
    two.add(one)
    assert (two.seconds, two.context) == (3.0, 6)


def test_a_step_is_told_with_the_table_that_its_last_layer_was_routed_by() -> None:
    counted = Recorder("a")
    counted.note_step(1, 0, 0.0)  # before there was a table
    one_step(counted, TABLES[0])
    counted.note_step(8, 7, 0.25)
    one_step(counted, TABLES[1])
    counted.note_step(8, 8, 0.5)
    first, second = counted.take()
    assert (first.version, first.steps.steps, first.steps.rows) == (TABLES[0].version, 2, 9)
    assert first.rows.tolist() == [1] * LAYERS
    assert second.steps.tokens == {(8, 491520): 8}
    # A step whose end is told after its rows were taken goes with the next ones.
    counted.note_step(8, 8, 0.5)
    assert not counted.has_windows
    one_step(counted, TABLES[1])
    (window,) = counted.take()
    assert (window.steps.steps, window.rows.tolist()) == (1, [1] * LAYERS)
