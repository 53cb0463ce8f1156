"""RoutingStatistics: exact counts, and merge, decay, subtract and the wire form as the algebra they are."""

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import InvalidStatisticsError, MismatchError, RoutingStatistics
from moe_placement.statistics import decode_statistics, encode_statistics


def random_ids(seed: int, tokens: int = 50, layers: int = 3, experts: int = 6, k: int = 2) -> np.ndarray:
    scores = np.random.default_rng(seed).random((tokens, layers, experts))
    return scores.argsort(axis=2)[:, :, :k]


def test_counts_by_hand() -> None:
    statistics = RoutingStatistics(2, 3, 2)
    statistics.add([[[0, 1], [2, 0]], [[0, 2], [2, -1]]])
    assert statistics.tokens == 2
    assert statistics.load.tolist() == [[2, 1, 1], [1, 0, 2]]
    assert statistics.pairs[0].tolist() == [[2, 1, 1], [1, 1, 0], [1, 0, 1]]
    assert statistics.transitions[0].tolist() == [[1, 0, 2], [1, 0, 1], [0, 0, 1]]


@given(st.integers(0, 2**31), st.integers(0, 2**31))
@settings(max_examples=20)
def test_merging_is_counting_together(first: int, second: int) -> None:
    together = RoutingStatistics(3, 6, 2, capacity=1000)
    apart = [RoutingStatistics(3, 6, 2, capacity=1000, seed=i) for i in range(2)]
    for statistics, seed in zip(apart, (first, second), strict=True):
        statistics.add(random_ids(seed))
        together.add(random_ids(seed))
    apart[0].merge(apart[1])
    assert (apart[0].load == together.load).all()
    assert (apart[0].pairs == together.pairs).all()
    assert (apart[0].transitions == together.transitions).all()
    assert len(apart[0].sample) == len(together.sample) == 100


def test_subtracting_a_window_leaves_the_rest() -> None:
    window, rest = RoutingStatistics(3, 6, 2), RoutingStatistics(3, 6, 2, seed=1)
    window.add(random_ids(1))
    rest.add(random_ids(2))
    both = rest.copy()
    both.merge(window)
    both.subtract(window)
    assert both.tokens == rest.tokens
    assert (both.load == rest.load).all()
    assert (both.sample.keys == rest.sample.keys).all()


def windows_of(*seeds: int) -> RoutingStatistics:
    statistics = RoutingStatistics(3, 6, 2)
    for seed in seeds:
        statistics.add(random_ids(seed))
        statistics.close_window()
    return statistics


def test_subtracting_takes_the_window_out_of_the_history() -> None:
    statistics = windows_of(1, 2, 3)
    statistics.subtract(windows_of(2))
    assert (statistics.windows == windows_of(1, 3).windows).all()
    assert (statistics.covariance(0) == windows_of(1, 3).covariance(0)).all()


def test_subtracting_undoes_a_merge_in_the_history() -> None:
    statistics, other = windows_of(1, 2), windows_of(3)
    other.add(random_ids(4))
    statistics.merge(other)
    statistics.subtract(other)
    assert (statistics.windows == windows_of(1, 2).windows).all()
    assert not statistics._open.any()


def test_a_window_that_fell_out_of_the_history_takes_nothing_with_it() -> None:
    statistics = RoutingStatistics(1, 2, 1, max_windows=1)
    for expert in (0, 1):
        statistics.add(np.full((5, 1, 1), expert))
        statistics.close_window()
    statistics.subtract(RoutingStatistics.of_ids(np.zeros((5, 1, 1), dtype=int), 2, windows=1))
    assert statistics.windows.tolist() == [[[0, 5]]]


def test_samples_of_two_replicas_are_taken_for_different_tokens() -> None:
    first, second = windows_of(1), windows_of(1)
    assert not np.isin(first.sample.keys, second.sample.keys).any()
    first.merge(second)
    first.subtract(second)
    assert len(first.sample) == 50
    back, copied = decode_statistics(encode_statistics(first)), first.copy()
    for statistics in (first, back, copied):
        statistics.add(random_ids(2))
    assert len(set(first.sample.keys) & set(back.sample.keys)) == 50
    assert len(set(first.sample.keys) & set(copied.sample.keys)) == 50


def test_seeds_and_equal_traces_give_equal_samples() -> None:
    drawn = [RoutingStatistics(3, 6, 2, seed=7) for _ in range(2)]
    for statistics in drawn:
        statistics.add(random_ids(1))
    copies = [statistics.copy() for statistics in drawn]
    for statistics in copies:
        statistics.add(random_ids(2))
    assert (copies[0].sample.keys == copies[1].sample.keys).all()
    one, again, other = (RoutingStatistics.of_ids(random_ids(seed), 6) for seed in (1, 1, 2))
    assert (one.sample.keys == again.sample.keys).all()
    assert not np.isin(one.sample.keys, other.sample.keys).any()


def test_gates_of_a_trace_are_sampled_with_their_sets() -> None:
    ids = random_ids(1)
    statistics = RoutingStatistics.of_ids(ids, 6, gates=ids / 8)
    assert (statistics.sample.gates == statistics.sample.ids / 8).all()
    with pytest.raises(InvalidStatisticsError, match=r"gates\[0, 0, 0\] is 1e\+06; .* within -65504 .. 65504"):
        RoutingStatistics.of_ids(ids, 6, gates=np.full(ids.shape, 1e6))


def test_what_was_never_counted_cannot_be_subtracted() -> None:
    empty, other = RoutingStatistics(3, 6, 2), RoutingStatistics(3, 6, 2)
    other.add(random_ids(1))
    with pytest.raises(InvalidStatisticsError, match="never counted here"):
        empty.subtract(other)


def test_decay_halves_counts_and_the_old_in_the_sample() -> None:
    statistics = RoutingStatistics(1, 4, 1, capacity=1000, seed=3)
    statistics.add(np.zeros((4000, 1, 1), dtype=int))
    statistics.decay(0.25)
    statistics.add(np.full((4000, 1, 1), 1))
    assert statistics.load.tolist() == [[1000, 4000, 0, 0]]
    old = float((statistics.sample.ids == 0).mean())
    assert old == pytest.approx(0.2, abs=0.05)


def test_covariance_of_windows() -> None:
    statistics = RoutingStatistics(1, 2, 1)
    for zeros in (8, 2):
        statistics.add([[[0]]] * zeros + [[[1]]] * (10 - zeros))
        statistics.close_window()
    assert statistics.covariance(0) == pytest.approx(np.array([[0.18, -0.18], [-0.18, 0.18]]))


def ones(tokens: int, expert: int = 0) -> np.ndarray:
    """Tokens that choose one expert, of one layer."""
    return np.full((tokens, 1, 1), expert)


def fills(statistics: RoutingStatistics) -> list[float]:
    """Tokens of each closed window, then of the one still open."""
    return [*statistics.windows.sum(axis=(1, 2)).tolist(), float(statistics._open.sum())]


@pytest.mark.parametrize("batch", [1, 7, 100, 1000])
def test_windows_close_by_themselves_whatever_the_batches(batch: int) -> None:
    statistics = RoutingStatistics(1, 2, 1, max_windows=4, window_tokens=20)
    statistics._length = 10
    for begin in range(0, 1000, batch):
        statistics.add(ones(min(batch, 1000 - begin), expert=begin // batch % 2))
    assert statistics.tokens == statistics.load.sum() == 1000
    assert fills(statistics) == [20, 20, 20, 20, 0]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (9, [9]), (10, [10, 0]), (45, [10, 10, 10, 10, 5]),
        (50, [20, 20, 10]),  # no room for a fifth: neighbours are joined, and the fifth goes on
        (60, [20, 20, 20, 0]), (99, [20, 20, 20, 20, 19]), (100, [40, 40, 20]), (179, [40, 40, 40, 40, 19]),
        (200, [40, 40, 40, 40, 40, 0][1:]), (250, [40, 40, 40, 40, 10]),  # as long as they get: the oldest leave
    ],
)  # fmt: skip
def test_windows_get_longer_until_they_are_long_enough(tokens: int, expected: list[float]) -> None:
    statistics = RoutingStatistics(1, 1, 1, max_windows=4, window_tokens=40)
    statistics._length = 10
    statistics.add(ones(tokens))
    assert fills(statistics) == expected


@given(st.integers(1, 5), st.integers(1, 3000), st.lists(st.integers(0, 2000), max_size=8))
@settings(max_examples=60)
def test_windows_are_few_and_hold_the_newest(most: int, longest: int, batches: list[int]) -> None:
    statistics = RoutingStatistics(1, 1, 1, capacity=0, max_windows=most, window_tokens=longest)
    for tokens in batches:
        statistics.add(ones(tokens))
    kept = fills(statistics)
    assert len(kept) <= most + 1
    assert max(kept) <= longest
    assert sum(batches) >= sum(kept) >= min(sum(batches), most * (longest - longest / 128))


def test_little_traffic_tells_how_loads_surge() -> None:
    statistics = RoutingStatistics(2, 8, 2)
    statistics.add(random_ids(0, tokens=600, layers=2, experts=8))
    assert statistics.windows_with_traffic == 2
    assert statistics.steadied_covariance(0) is not None


def test_windows_by_the_callers_clock() -> None:
    statistics = RoutingStatistics(1, 1, 1, window_tokens=None)
    statistics.add(ones(10**5))
    assert fills(statistics) == [10**5]
    statistics.close_window()
    statistics.add(ones(3))
    assert fills(statistics) == [10**5, 3]
    assert fills(decode_statistics(encode_statistics(statistics)))[:1] == [10**5]


def test_windows_of_replicas_are_joined_until_they_are_equally_long() -> None:
    busy, idle = (RoutingStatistics(1, 1, 1, max_windows=4, window_tokens=40) for _ in range(2))
    busy._length = idle._length = 10
    busy.add(ones(100))
    idle.add(ones(37))
    sums = []
    for first, second in ((busy, idle), (idle, busy)):
        merged = first.copy()
        merged.merge(second)
        sums.append(fills(merged))
        merged.add(ones(1))
    assert sums[0] == sums[1]
    assert sum(sums[0]) == 137
    assert fills(busy) == [40, 40, 20]
    assert fills(idle) == [10, 10, 10, 7]


def test_windows_go_on_after_the_wire_and_a_copy() -> None:
    statistics = RoutingStatistics(1, 1, 1, max_windows=4, window_tokens=40)
    statistics._length = 10
    statistics.add(ones(60))
    for twin in (statistics.copy(), decode_statistics(encode_statistics(statistics))):
        twin.add(ones(39))
        assert fills(twin) == [20, 20, 20, 20, 19]
    trace = RoutingStatistics.of_ids(ones(64), 1, windows=4)
    trace.add(ones(16))
    assert fills(trace) == [16, 16, 16, 16, 0]


def test_departures_within_chance_are_steadied_and_real_ones_stay() -> None:
    random = np.random.default_rng(0)
    statistics = RoutingStatistics(1, 3, 1)
    rates = [[0.5, 0.3, 0.2], [0.3, 0.5, 0.2]] * 8
    statistics.windows = np.array([[random.multinomial(2000, rate)] for rate in rates], dtype=np.float64)
    before, after = np.diag(statistics.covariance(0)), np.diag(statistics.steadied_covariance(0))
    assert after[:2] == pytest.approx(before[:2], rel=0.1)
    assert after[2] < before[2]


def test_windows_without_traffic_tell_nothing() -> None:
    statistics = RoutingStatistics(2, 3, 1)
    statistics.add([[[0], [1]]])
    for _ in range(3):
        statistics.close_window()
    assert not statistics.covariance(1).any()
    assert statistics.steadied_covariance(1) is None


@pytest.mark.parametrize("layer", [2, -1, 0.5, None])
def test_covariances_are_of_a_layer(layer: Any) -> None:
    statistics = RoutingStatistics(2, 3, 1)
    for covariance in (statistics.covariance, statistics.steadied_covariance):
        with pytest.raises(InvalidStatisticsError, match=f"layer is {layer}; it must be a whole number from 0 to 1"):
            covariance(layer)


def test_one_window_tells_nothing_of_surges() -> None:
    statistics = RoutingStatistics(1, 3, 1)
    statistics.add([[[0]]])
    statistics.close_window()
    assert statistics.steadied_covariance(0) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": 0}, "layers is 0; it must be a whole number from 1"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"experts": 40000}, "experts is 40000; it must be a whole number from 1 to 32767"),
        ({"top_k": 9}, "top_k is 9; it must be a whole number from 1 to 8"),
        ({"capacity": 1.5}, "capacity is 1.5"),
        ({"capacity": -1}, "capacity is -1"),
        ({"max_windows": 0}, "max_windows is 0"),
        ({"window_tokens": 0}, "window_tokens is 0"),
        ({"window_tokens": 1.5}, "window_tokens is 1.5"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": "a"}, "seed is 'a'"),
    ],
)
def test_sizes_are_whole_numbers_in_range(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=re.escape(message)):
        RoutingStatistics(**{"layers": 2, "experts": 8, "top_k": 2} | arguments)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[[1, 2], [3]]], "ids must be one array [tokens, layers, k]"),
        ([[1, 2]], "ids must be [tokens, layers, k], got an array of shape (1, 2)"),
        ([[[1.0, 2.0]]], "ids must be integers [tokens, layers, k], got float64"),
        (np.array([[[2**64 - 1, 0]]], dtype="u8"), "beyond any id"),
        ([[[0, 8]]], "ids run from 0 to 8; they must be within -1 .. 7"),
        ([[[0, -2]]], "ids run from -2 to 0"),
        ([[[3, 3]]], "token 0, layer 0: expert 3 is chosen twice in one set"),
        ([[[0]]], "ids must be [tokens, 1, 2], got (1, 1, 1)"),
        ("abc", "ids must be [tokens, layers, k]"),
    ],
)
def test_ids_that_cannot_be_are_refused(ids: Any, message: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=re.escape(message)):
        RoutingStatistics(1, 8, 2).add(ids)


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ([[1.0, float("nan")]], "loads[0, 1] is nan; all of [layers, experts] must be finite within 0 .. 1e+30"),
        ([[1.0, -2.0]], "loads[0, 1] is -2"),
        ([[1.0, 1e39]], "loads[0, 1] is 1e+39"),
        ([[1.0], [1.0, 2.0]], "loads must be one array [layers, experts]"),
        ([["a"]], "loads must be numbers [layers, experts]"),
        (np.zeros((0, 4)), "loads are of shape (0, 4); at least one layer and one expert are needed"),
    ],
)
def test_loads_that_cannot_be_are_refused(loads: Any, message: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=re.escape(message)):
        RoutingStatistics.of_loads(loads)


@pytest.mark.parametrize("windows", [0, -3, 1.5])
def test_a_trace_is_cut_into_a_whole_number_of_windows(windows: Any) -> None:
    with pytest.raises(InvalidStatisticsError, match=re.escape(f"windows is {windows}")):
        RoutingStatistics.of_ids([[[0]]], 1, windows=windows)


def test_bad_arguments_are_refused() -> None:
    for factor in (0, 1.5, float("nan"), "a"):
        with pytest.raises(InvalidStatisticsError, match=f"decay factor is {factor!r}"):
            RoutingStatistics(1, 2, 1).decay(factor)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(MismatchError, match="another model"):
        RoutingStatistics(1, 2, 1).merge(RoutingStatistics(1, 3, 1))
    for method in (RoutingStatistics.merge, RoutingStatistics.subtract):
        with pytest.raises(MismatchError, match="other is None; it must be of type RoutingStatistics"):
            method(RoutingStatistics(1, 2, 1), None)  # type: ignore[arg-type]  # wrong on purpose
