"""The wire form of statistics: it round-trips, stays small, and refuses what cannot be with the package's own error."""

import json
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import InvalidStatisticsError, RoutingStatistics
from moe_placement.statistics import decode_statistics, encode_statistics


def random_ids(seed: int, tokens: int = 50, layers: int = 3, experts: int = 6, k: int = 2) -> np.ndarray:
    scores = np.random.default_rng(seed).random((tokens, layers, experts))
    return scores.argsort(axis=2)[:, :, :k]


def small(gated: bool = False, experts: int = 6) -> RoutingStatistics:
    statistics = RoutingStatistics(3, experts, 2, capacity=20, seed=0)
    ids = random_ids(0, experts=experts)
    statistics.add(ids, np.random.default_rng(1).random(ids.shape) if gated else None)
    statistics.close_window()
    return statistics


def changed(change: dict[str, Any], statistics: RoutingStatistics | None = None) -> bytes:
    """A message with other header fields, ``DROP`` for none, as JSON writes them."""
    head, _, body = encode_statistics(statistics or small()).partition(b"\n")
    return json.dumps(json.loads(head) | change).encode() + b"\n" + body


@given(st.integers(0, 2**31), st.booleans(), st.sampled_from([6, 254, 255, 300]))
@settings(max_examples=20)
def test_the_wire_form_round_trips(seed: int, gated: bool, experts: int) -> None:
    statistics = RoutingStatistics(3, experts, 2, capacity=20)
    ids = random_ids(seed, experts=experts)
    statistics.add(ids, np.random.default_rng(seed).random(ids.shape) if gated else None)
    statistics.close_window()
    data = encode_statistics(statistics)
    back = decode_statistics(data)
    assert encode_statistics(back) == data
    assert (back.load == statistics.load).all()
    assert (back.sample.ids == statistics.sample.ids).all()
    assert np.allclose(back.pairs, statistics.pairs, rtol=1e-3)
    assert np.allclose(back.sample.gates, statistics.sample.gates, rtol=0, atol=1 / 400, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 4, 2), (1, 1, 1), (2, 1, 1)])
def test_the_smallest_models_round_trip(shape: tuple[int, int, int]) -> None:
    empty = RoutingStatistics(*shape, capacity=0)
    back = decode_statistics(encode_statistics(empty))
    assert back.shape == empty.shape
    assert back.transitions.shape == empty.transitions.shape


def test_gates_that_are_unknown_or_negative_survive() -> None:
    statistics = small(gated=True)
    statistics.sample.gates[0] = np.nan
    statistics.sample.gates[1] = [-1, 2.5]
    back = decode_statistics(encode_statistics(statistics))
    assert np.isnan(back.sample.gates[0]).all()
    assert (back.sample.gates[1] == statistics.sample.gates[1]).all()


def test_a_sample_outlives_any_rest() -> None:
    statistics = small(gated=True)
    order = statistics.sample.ids.copy()
    for _ in range(5000):
        statistics.decay(0.5)
    back = decode_statistics(encode_statistics(statistics))
    assert (back.sample.ids == order).all()
    assert (np.diff(back.sample.keys) > 0).all()
    back.add(np.full((1, 3, 2), [0, 1]))  # what comes next is worth more than all of it
    assert (back.sample.ids[0] == [0, 1]).all()


def test_58_dense_layers_of_256_experts_with_gates_and_windows_fit_in_16_megabytes() -> None:
    random = np.random.default_rng(0)
    statistics = RoutingStatistics(58, 256, 8, capacity=4096)
    scores = random.integers(0, 2**16, size=(4096, 58, 8), dtype=np.int64)
    statistics.add((scores % 32) + np.arange(8) * 32, random.random((4096, 58, 8)))
    statistics.pairs = random.integers(1, 100_000, size=statistics.pairs.shape).astype(np.float32)
    statistics.transitions = random.integers(1, 100_000, size=statistics.transitions.shape).astype(np.float32)
    statistics.windows = random.integers(1, 100_000, size=(32, 58, 256)).astype(np.float64)
    assert len(encode_statistics(statistics)) <= 16_000_000


@pytest.mark.parametrize(
    "damage", [b"", b"{}", b'{"format": "moe-routing-statistics/2"}\n', b"[1]\nx", b"[" * 10**6, None, "text"]
)
def test_other_bytes_are_refused(damage: Any) -> None:
    with pytest.raises(InvalidStatisticsError):
        decode_statistics(damage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": float("inf")}, "tokens is inf; it must be a finite number"),
        ({"tokens": float("nan")}, "tokens is nan"),
        ({"tokens": -1}, "tokens is -1"),
        ({"capacity": 19}, "samples is 20; it must be a whole number from 0 to 19"),
        ({"maxWindows": 0}, "maxWindows is 0"),
        ({"windowTokens": -1}, "windowTokens is -1"),
        ({"windowLength": 0}, "windowLength is 0; it must be a whole number from 1 to 32768"),
        ({"windowTokens": 0}, "windowLength is 256; it must be a whole number from 0 to 0"),
        ({"windows": 33}, "windows is 33; it must be a whole number from 0 to 32"),
        ({"pairScale": [1.0]}, "pairScale must be 3 numbers"),
        ({"pairScale": 1.0}, r"pairScale must be \[3\], got an array of shape \(\)"),
        ({"pairScale": [1.0, 1.0, 1e999]}, r"pairScale\[2\] is inf"),
        ({"transitionScale": [1.0, 1.0, 1.0]}, "transitionScale must be 2 numbers"),
        ({"layers": 3.0}, "layers is 3.0; it must be a whole number"),
        ({"layers": True}, "layers is True"),
        ({"experts": 10**14}, "experts is 100000000000000; it must be a whole number from 1 to 32767"),
        ({"experts": 32767, "layers": 10**6, "pairScale": [1] * 10**6}, "transitionScale must be"),
        ({"experts": 32767, "pairScale": [1, 1, 1]}, "at most 1073741824 are read"),
        ({"topK": 7}, "topK is 7; it must be a whole number from 1 to 6"),
        ({"gated": True}, "bytes where"),
    ],
)
def test_headers_that_cannot_be_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidStatisticsError, match=message):
        decode_statistics(changed(change))


@pytest.mark.parametrize(
    ("expert", "message"), [(299, None), (300, "sampled expert id is 300"), (65534, "sampled expert id is 65534")]
)
def test_sampled_ids_are_judged_before_they_are_narrowed(expert: int, message: str | None) -> None:
    statistics = small(experts=300)
    statistics.sample.ids = statistics.sample.ids.astype(np.int64)  # type: ignore[assignment]  # wrong on purpose
    statistics.sample.ids[0, 0] = [expert, -1]
    data = encode_statistics(statistics)
    if message is None:
        assert decode_statistics(data).sample.ids[0, 0, 0] == expert
        return
    with pytest.raises(InvalidStatisticsError, match=message):
        decode_statistics(data)


def test_samples_that_cannot_be_are_refused() -> None:
    twice, falling, infinite = small(), small(), small(gated=True)
    twice.sample.ids[3, 1] = 4
    falling.sample.keys = falling.sample.keys[::-1]
    infinite.load[0, 0] = np.inf
    for statistics, message in (
        (twice, "token 3, layer 1: expert 4 is chosen twice"),
        (falling, "must not fall"),
        (infinite, "not finite"),
    ):
        with pytest.raises(InvalidStatisticsError, match=message):
            decode_statistics(encode_statistics(statistics))


FIELDS = sorted(json.loads(encode_statistics(small()).partition(b"\n")[0]))
JSON = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON | st.lists(JSON | st.floats(0, 2), max_size=4), max_size=2))
@settings(max_examples=150)
def test_any_header_is_read_or_refused(change: dict[str, Any]) -> None:
    _read_or_refused(changed(change, small(gated=True)))


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=4), st.booleans())
@settings(max_examples=100)
def test_damaged_arrays_are_read_or_refused(position: int, patch: bytes, packed: bool) -> None:
    head, _, body = encode_statistics(small(gated=True)).partition(b"\n")
    data = bytearray(body if packed else zlib.decompress(body))
    at = position % len(data)
    data[at : at + len(patch)] = patch
    _read_or_refused(head + b"\n" + (bytes(data) if packed else zlib.compress(data)))


def _read_or_refused(data: bytes) -> None:
    try:
        back = decode_statistics(data)
    except InvalidStatisticsError as error:
        assert str(error)  # a clear error of the package's own, and no other
    else:
        assert np.isfinite(back.pairs).all()
        assert np.isfinite(back.tokens)
        assert back.sample.ids.max(initial=-1) < back.shape.experts
        assert len(back.sample) <= back.sample.capacity
