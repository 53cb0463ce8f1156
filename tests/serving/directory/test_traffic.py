"""What the directory makes of windows: figures that follow the traffic, by table, in a report that stays small."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fake_shards import table_of
from scene import FACTS

from moe_contract.report import MOST_EPOCHS, AttentionReport, DirectoryReport, Progress, ShardReport
from moe_contract.sizes import MOST_REPLICAS
from moe_placement import Placement
from moe_placement.encoding import decode_counts, encode_placement
from moe_serving.directory.traffic import HALVING_SECONDS, TrafficCounts
from moe_serving.routing.table import TableVersion
from moe_serving.routing.window import Window

TABLE = table_of(np.ones((2, 4, 2), dtype=bool))


def window(pairs: tuple[int, int], epoch: int = 1, origin: str = "directory") -> Window:
    """Rows with one expert each, so many on each of two shards, in one of two layers."""
    made = Window.of(replace(TABLE, version=TableVersion(epoch, origin)))
    made.pairs[0] = made.visits[0] = made.load[0, :2] = pairs
    made.rows[0] = sum(pairs)
    return made


def counts_of(*windows: Window, now: float = 0.0) -> TrafficCounts:
    counts = TrafficCounts(2, 4)
    for sequence, each in enumerate(windows):
        counts.add("a", sequence, [each], now)
    return counts


def test_figures_are_kept_apart_by_table_and_summed_over_replicas() -> None:
    counts = counts_of(window((30, 10)), window((5, 5), epoch=2))
    counts.add("b", 0, [window((10, 30)), window((9, 0), epoch=1, origin="an earlier directory")], now=0.0)
    before, after = counts.report("directory").epochs
    assert (before.epoch, before.rows, before.shard_balance) == (1, 80, 1.0)
    assert (after.epoch, after.rows, after.fan_out) == (2, 10, 1.0)
    assert counts.report("directory").layer_rows == 99, "sums have all of it"


def test_what_adaptive_routing_left_out_is_summed() -> None:
    for_one, for_other = window((9, 1)), window((3, 3), epoch=2)
    for_one.skipped, for_one.chosen, for_one.touched = 5, 8, 6
    for_other.skipped, for_other.chosen, for_other.touched = 2, 4, 4
    report = counts_of(for_one, for_other).report("directory")
    assert (report.pairs_skipped, report.experts_chosen, report.experts_touched) == (7, 12, 10)


def test_shares_are_of_the_last_table_that_had_traffic() -> None:
    assert counts_of().report("directory").shares == ()
    assert counts_of(window((90, 10)), window((25, 75), epoch=2)).report("directory").shares == (2500, 7500)
    assert counts_of(window((90, 10)), window((0, 0), epoch=2)).report("directory").shares == (9000, 1000)


def test_figures_follow_the_traffic_and_outlive_its_end() -> None:
    counts = counts_of(window((100, 0)))
    assert counts.report("directory").epochs[0].shard_balance == 0.5
    later = 0.0
    for sequence in range(1, 12):
        later += HALVING_SECONDS
        counts.add("a", sequence, [window((50, 50))], later)
    (figures,) = counts.report("directory").epochs
    assert figures.shard_balance > 0.99
    assert (figures.rows, figures.pairs) == (1200, 1200)
    assert counts.report("directory") is counts.report("directory"), "made anew only when there is news"
    load = decode_counts(counts.report("directory").load or "", 2, 4)
    counts.add("a", 99, [window((1, 1))], later + 1e6)
    halved = decode_counts(counts.report("directory").load or "", 2, 4)
    assert halved[0, 1] == pytest.approx(load[0, 1] / 2 + 1, abs=1)


def test_rows_of_a_step_and_of_a_second_are_means_of_the_time_with_traffic() -> None:
    counts, made = counts_of(window((30, 10))), window((30, 10))
    for rows in (2, 6):
        made.steps.note(rows, 0, 0.0)
    counts.add("a", 1, [made], now=1.0)
    (figures,) = counts.report("directory").epochs
    assert (figures.rows_per_step, figures.rows_per_second, figures.nodes) == (4.0, 40.0, 1)
    counts.add("a", 2, [made], now=1000.0)
    (figures,) = counts.report("directory").epochs
    assert figures.rows_per_second == pytest.approx(80 / 3), "halved since, and nothing came for most of the time"


def test_what_was_counted_while_the_directory_was_away_came_in_all_of_that_time() -> None:
    """Both replicas tell of half a minute at once; the one that is heard of first was there before."""
    late, other = window((1200, 0)), window((1200, 0))
    for made in (late, other):
        for _ in range(30):
            made.steps.note(40, 0, 0.0, since_last=1.0)
    counts = counts_of(window((40, 0)))
    counts.add("a", 1, [late], now=30.0)
    counts.add("b", 1, [other], now=30.1)
    (figures,) = counts.report("directory").epochs
    assert figures.rows_per_second == pytest.approx(2440 / 31.1)
    # So it is where nothing is known of before.
    anew = counts_of(late)
    anew.add("b", 1, [other], now=0.1)
    assert anew.report("directory").epochs[0].rows_per_second == pytest.approx(2400 / 30.1)


def test_loads_are_told_nearly() -> None:
    made, random = window((0, 0)), np.random.default_rng(1)
    made.load[:] = [[0, 1, 255, 256], random.integers(257, 10**9, 4)]
    told = decode_counts(counts_of(made).report("directory").load or "", 2, 4)
    assert told[0].tolist() == [0, 1, 255, 256]
    assert np.abs(told / np.maximum(made.load, 1) - (made.load > 0)).max() <= 1 / 256


def test_windows_of_another_model_are_left_out() -> None:
    counts = TrafficCounts(3, 4)
    counts.add("a", 1, [window((1, 1))], now=0.0)
    assert counts.report("directory").layer_rows == 0


def test_what_is_kept_of_replicas_and_tables_is_bounded() -> None:
    counts = TrafficCounts(2, 4)
    for number in range(MOST_REPLICAS + 5):
        counts.add(f"replica-{number}", 1, [window((1, 1), epoch=number)], now=0.0)
    counts.add(f"replica-{number}", 1, [window((1, 1), epoch=number)], now=0.0)
    report = counts.report("directory")
    assert [figures.epoch for figures in report.epochs] == list(range(number - MOST_EPOCHS + 1, number + 1))
    assert report.layer_rows == 2 * (number + 1), "the last one delivered twice counts once"
    assert len(counts._last_sequence) == MOST_REPLICAS


def busy_shard(index: int, copies: int) -> ShardReport:
    """With a long value in every field but ``problem``."""
    return ShardReport(
        index=index, phase="Ready", node="n" * 56, incarnation="i" * 32, pid=1 << 22, held=copies, wanted=copies,
        capacity=copies + 2, pairs=10**14, from_peers=10**12, from_checkpoint=10**12, refused=10**6, damaged=10**6,
        device="cuda", memory=10**11, busy_us=10**13, served_us=10**13, host="2001:db8:1234:5678:9abc:def0:1234:5678",
    )  # fmt: skip


def busy_replica(number: int) -> AttentionReport:
    return AttentionReport(
        replica=f"{number}" * 40, ready=True, epoch=10**9, running=64, waiting=512, kv_tokens=10**7, pid=1 << 22,
        node="n" * 56, host="2001:db8:1234:5678:9abc:def0:1234:5678",
    )  # fmt: skip


def test_a_report_of_a_large_model_is_small() -> None:
    layers, experts, shards, random = 58, 256, 32, np.random.default_rng(1)
    slots = np.stack(
        [random.permutation(np.r_[np.arange(experts), random.permutation(experts)[:32]]) for _ in range(layers)]
    )
    table = table_of(np.ones((layers, experts, shards), dtype=bool), nodes=[f"node-{n}" for n in range(shards)])
    counts = TrafficCounts(layers, experts)
    for epoch in range(20):
        made = Window.of(replace(table, version=TableVersion(epoch, "directory")))
        made.load[:] = random.integers(0, 50_000, made.load.shape)  # ten minutes of 1000 rows/s at top 8
        made.pairs[:], made.visits[:] = random.integers(0, 10**9, (2, layers, shards))
        made.rows[:] = 10**9
        for rows in range(1, 40):
            for seconds in random.lognormal(-3, 1, 50):
                made.steps.note(rows, rows, seconds)
        counts.add("a", epoch, [made], epoch * HALVING_SECONDS)
    report = DirectoryReport(
        term=1,
        revision=1,
        epoch=1,
        model=FACTS.model_copy(update={"layers": layers, "experts": experts}),
        shards=tuple(busy_shard(n, layers * 9) for n in range(shards)),
        attention=tuple(busy_replica(n) for n in range(8)),
        progress=Progress(copied=layers * 288, total=layers * 288, settled=True),
        placement=encode_placement(Placement.of(slots, [9] * shards, experts)),
        traffic=counts.report("directory"),
    )
    assert len(report.model_dump_json()) <= 100_000
    assert len(report.traffic.epochs) == MOST_EPOCHS
