"""The recorder's format and the generators."""

from pathlib import Path

import numpy as np
import pytest

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
    gated = Trace(
        trace.ids, 16, trace.prompt, trace.domain, trace.domains, np.full(trace.ids.shape, 0.25, dtype=np.float16)
    )
    write_trace(tmp_path / "t.npz", gated)
    back = read_trace(tmp_path / "t.npz")
    assert (back.ids == trace.ids).all()
    assert back.domains == trace.domains
    assert back.gates is not None and (back.gates == 0.25).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("moe-trace/9")}, "this release reads moe-trace/1"),
        ({"extra": np.zeros(1)}, "arrays are"),
        ({"ids": np.full((2, 1, 1), 7)}, "ids run from 7 to 7"),
        ({"ids": np.zeros((2, 1, 1))}, "must be integers"),
        ({"prompt": np.zeros(1, dtype=int)}, "prompt names 1 tokens"),
        ({"domain": np.ones(2, dtype=int)}, "outside 0 .. 0"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, change: dict[str, np.ndarray], message: str) -> None:
    arrays = {
        "format": np.array("moe-trace/1"), "experts": np.array(4), "ids": np.zeros((2, 1, 1), dtype=int),
        "prompt": np.zeros(2, dtype=int), "domain": np.zeros(2, dtype=int), "domains": np.array(["all"]),
    } | change  # fmt: skip
    np.savez(tmp_path / "t.npz", **arrays)  # type: ignore[arg-type]  # the stub takes allow_pickle for an array
    with pytest.raises(InvalidTraceError, match=message):
        read_trace(tmp_path / "t.npz")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(b"no zip")
    with pytest.raises(InvalidTraceError, match="not a trace"):
        read_trace(tmp_path / "t.npz")


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
