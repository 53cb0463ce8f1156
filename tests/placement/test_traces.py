"""The recorder's format and the generators."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import InvalidTraceError, MismatchError
from moe_placement.traces import (
    Trace,
    Traffic,
    concatenate,
    fitted_trace,
    generate_trace,
    load_pair_counts,
    read_trace,
    split_by_prompt,
    write_trace,
)

MBOLT = Path(__file__).parents[2] / "traces/mbolt/qwen3-30b-a3b.npz"
SMALL = Traffic(tokens=2000, layers=2, experts=16, top_k=3, communities=4, domains=2)


def test_files_round_trip(tmp_path: Path) -> None:
    trace = generate_trace(SMALL)
    write_trace(tmp_path / "t.npz", gated())
    back = read_trace(tmp_path / "t.npz")
    assert (back.ids == trace.ids).all()
    assert back.domains == trace.domains
    assert back.gates is not None and (back.gates * 16 == back.ids).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("moe-trace/9")}, "this release reads moe-trace/1"),
        ({"extra": np.zeros(1)}, "arrays are"),
        ({"ids": np.full((2, 1, 1), 7)}, "ids run from 7 to 7"),
        ({"ids": np.zeros((2, 1, 1))}, "ids must be integers"),
        ({"prompt": np.zeros(1, dtype=int)}, "prompt names 1 tokens"),
        ({"prompt": np.full(2, 2**31)}, "prompt holds 2147483648 .. 2147483648; they must be within 0 .. 2147483647"),
        ({"domain": np.ones(2, dtype=int)}, "domain holds 1 .. 1; they must be within 0 .. 0"),
        ({"domain": np.full(2, 65536)}, "domain holds 65536"),
        ({"domains": np.array("all")}, "domains must be a list of names"),
        ({"domains": np.array([1])}, "domains must be a list of names"),
        ({"experts": np.array([4, 4])}, "experts must be a single value"),
        ({"experts": np.array("four")}, "experts must be a single value"),
        ({"format": np.array(["moe-trace/1"])}, "format must be a single value"),
        ({"ids": np.full((2, 1, 1), 65537)}, "ids run from 65537 to 65537"),
        ({"ids": np.array(1)}, r"ids must be \[tokens, layers, k\]"),
        ({"gates": np.full((2, 1, 1), "x")}, "gates must be numbers"),
        ({"gates": np.zeros((2, 1, 2))}, r"gates must be shaped like ids \(2, 1, 1\)"),
        ({"gates": np.full((2, 1, 1), np.nan)}, r"gates\[0, 0, 0\] is nan"),
        ({"gates": np.full((2, 1, 1), 1e6)}, r"gates\[0, 0, 0\] is 1e\+06; .* within -65504 .. 65504"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "format": np.array("moe-trace/1"), "experts": np.array(4), "ids": np.zeros((2, 1, 1), dtype=int),
        "prompt": np.zeros(2, dtype=int), "domain": np.zeros(2, dtype=int), "domains": np.array(["all"]),
    } | change  # fmt: skip
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for an array
    with pytest.raises(InvalidTraceError, match=f"t.npz: .*{message}"):
        read_trace(tmp_path / "t.npz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    path.write_bytes(b"no zip")
    with pytest.raises(InvalidTraceError, match=r"t\.npz: not a sound \.npz archive"):
        read_trace(path)
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(InvalidTraceError, match=r"a single array \(\.npy\)"):
        read_trace(path)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
@settings(max_examples=100)
def test_damaged_archives_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, patch: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    write_trace(path, generate_trace(Traffic(tokens=40, layers=1, experts=8, top_k=2)))
    data = bytearray(path.read_bytes())
    at = position % len(data)
    data[at : at + len(patch)] = patch
    path.write_bytes(data)
    try:
        read_trace(path)
    except InvalidTraceError as error:
        assert "damaged.npz: " in str(error)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heat": np.zeros(3, dtype=int)}, "heat must be integers"),
        ({"pairs": np.array([[0, 0, 9, 1]])}, "a pair beyond the 1 layers x 2 experts"),
        ({"tokens": np.array("x")}, "tokens must be a single value"),
        ({"top_k": np.array(3)}, "top_k 3"),
        ({"heat": np.array([[1, 1], [0, 0]])}, r"heat needs layers, and tokens in each; it is \[2, 0\]"),
        ({"heat": np.zeros((0, 2), dtype=int), "pairs": np.zeros((0, 4), dtype=int)}, "heat needs layers"),
    ],
)
def test_damaged_pair_counts_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "tokens": np.array(5), "top_k": np.array(1), "min_lift": np.array(1.5), "heat": np.ones((1, 2), dtype=int),
        "pairs": np.array([[0, 0, 1, 1]]),
    } | change  # fmt: skip
    np.savez(tmp_path / "p.npz", **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for an array
    with pytest.raises(InvalidTraceError, match=message):
        load_pair_counts(tmp_path / "p.npz")


def gated(seed: int = 0) -> Trace:
    """Each expert's gate tells its number."""
    trace = generate_trace(SMALL, seed)
    return Trace(trace.ids, 16, trace.prompt, trace.domain, trace.domains, (trace.ids / 16).astype(np.float16))


def test_gates_stay_with_their_experts() -> None:
    trace = gated()
    seen, unseen = split_by_prompt(trace)
    for other in (trace.shuffled(), concatenate([seen, unseen]), trace.of_domain("domain-1")):
        assert other.gates is not None and (other.gates * 16 == other.ids).all()
    assert concatenate([trace, generate_trace(SMALL)]).gates is None


def test_generation_is_seeded_and_has_structure() -> None:
    first, again, other = (generate_trace(SMALL, seed) for seed in (1, 1, 2))
    assert (first.ids == again.ids).all()
    assert (first.ids != other.ids).any()
    assert (np.sort(first.ids, axis=2)[:, :, 1:] != np.sort(first.ids, axis=2)[:, :, :-1]).all()


def test_a_shuffle_keeps_loads_and_breaks_pairs() -> None:
    trace = generate_trace(SMALL)
    shuffled = trace.shuffled()
    for layer in range(2):
        before, after = (np.bincount(t.ids[:, layer].ravel(), minlength=16) for t in (trace, shuffled))
        assert np.abs(before - after).max() <= 3
    assert (shuffled.ids != trace.ids).mean() > 0.5


def test_splits_share_no_prompt_and_keep_domains() -> None:
    seen, unseen = split_by_prompt(generate_trace(SMALL))
    assert not set(seen.prompt) & set(unseen.prompt)
    assert set(seen.domain) == set(unseen.domain) == {0, 1}


def test_traces_of_other_models_are_not_joined() -> None:
    trace = generate_trace(SMALL)
    assert len(concatenate([trace, trace])) == 4000
    with pytest.raises(MismatchError):
        concatenate([trace, generate_trace(Traffic(tokens=10, experts=8, top_k=2))])
    with pytest.raises(InvalidTraceError, match="no domain 'x'"):
        trace.of_domain("x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", -1), ("layers", 0), ("experts", 40000), ("top_k", 17), ("prompt_tokens", 0), ("communities", 0),
        ("epochs", 0), ("domains", 1.5), ("affinity", float("nan")), ("prompt_share", 1.5), ("drift", -0.1),
        ("burst", "x"), ("zipf", float("inf")),
    ],
)  # fmt: skip
def test_parameters_of_traffic_are_checked(field: str, value: object) -> None:
    with pytest.raises(InvalidTraceError, match=f"{field} is {value!r}; it must be a"):
        Traffic(**{"experts": 16, "top_k": 4} | {field: value})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("field", "value"),
    [("tokens", 0), ("layers", 0), ("rank", 129), ("prompt_share", 2), ("prompt_tokens", 0), ("seed", -1)],
)
def test_parameters_of_fitted_traces_are_checked(field: str, value: object) -> None:
    with pytest.raises(InvalidTraceError, match=f"{field} is {value!r}; it must be a"):
        fitted_trace(load_pair_counts(MBOLT), **{"tokens": 8, "layers": 1} | {field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "message"),
    [((0, 0), "at least one must be above 0"), ((1, -1), r"parts\[1\] is -1"), ([[1], [1, 2]], "one array")],
)
def test_parts_of_a_split_are_checked(parts: Any, message: str) -> None:
    with pytest.raises(InvalidTraceError, match=message):
        split_by_prompt(generate_trace(SMALL), parts)


def test_traces_are_made_of_lists_and_read_by_any_path(tmp_path: Path) -> None:
    trace = Trace([[[0, 1]]], 2, [0], [0])  # type: ignore[arg-type]  # an array of it is made
    write_trace(str(tmp_path / "t.npz"), trace)
    assert read_trace(str(tmp_path / "t.npz")).ids.tolist() == [[[0, 1]]]
    with pytest.raises(InvalidTraceError, match="token 0, layer 0: expert 1 is chosen twice"):
        Trace([[[1, 1]]], 2, [0], [0])  # type: ignore[arg-type]  # as above
    with pytest.raises(InvalidTraceError, match=r"there is no folder .*missing; make it first"):
        write_trace(tmp_path / "missing/t.npz", trace)
    with pytest.raises(InvalidTraceError, match="is a folder; name a file in it"):
        write_trace(tmp_path, trace)
    with pytest.raises(InvalidTraceError, match="path is None; it must be a str or a Path"):
        write_trace(None, trace)  # type: ignore[arg-type]  # wrong on purpose
    (tmp_path / "README.md").write_text("words")
    with pytest.raises(InvalidTraceError, match=r"README.md: not a sound .npz archive \(no zip file\)"):
        read_trace(tmp_path / "README.md")


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: generate_trace(5), InvalidTraceError, "traffic is 5; it must be of type Traffic"),
        (lambda: generate_trace(SMALL, 1.5), InvalidTraceError, "seed is 1.5"),
        (lambda: gated().shuffled("a"), InvalidTraceError, "seed is 'a'"),
        (lambda: fitted_trace(None, 1, 1), InvalidTraceError, "counts is None; it must be of type PairCounts"),
        (lambda: split_by_prompt(None), InvalidTraceError, "trace is None"),
        (lambda: concatenate(None), MismatchError, "traces is None; it must be a list"),
        (lambda: concatenate([5]), MismatchError, r"traces\[0\] is 5; it must be of type Trace"),
        (lambda: gated().take(np.ones(3, dtype=bool)), InvalidTraceError, "tokens to take of 2000: "),
        (lambda: concatenate([]), MismatchError, "at least one is needed"),
        (lambda: Trace([[[0]]], 2, [0], [0], "all"), InvalidTraceError, "domains is 'all'; it must be a list"),
        (lambda: Trace([[[0]]], 2, [0], [0], (7,)), InvalidTraceError, r"domains\[0\] is 7; it must be of type str"),
    ],
)
def test_what_is_no_trace_is_refused(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_traces_without_tokens_are_traces(tmp_path: Path) -> None:
    trace = generate_trace(Traffic(tokens=0, layers=2, experts=4, top_k=2))
    write_trace(tmp_path / "t.npz", trace)
    parts = split_by_prompt(trace)
    for other in (read_trace(tmp_path / "t.npz"), trace.shuffled(), concatenate([trace, trace]), *parts):
        assert other.ids.shape == (0, 2, 2)


def test_the_fitted_generator_meets_real_loads_and_pairs() -> None:
    counts = load_pair_counts(MBOLT)
    trace = fitted_trace(counts, tokens=6000, layers=1)
    load = np.bincount(trace.ids[:, 0].ravel(), minlength=128) / len(trace)
    assert np.corrcoef(load, counts.heat[0] / counts.tokens)[0, 1] > 0.98
    member = np.zeros((len(trace), 128))
    member[np.arange(len(trace))[:, None], trace.ids[:, 0]] = 1
    pairs = counts.pairs[counts.pairs[:, 0] == 0]
    together = (member.T @ member)[pairs[:, 1], pairs[:, 2]]
    assert np.corrcoef(together, pairs[:, 3])[0, 1] > 0.9
