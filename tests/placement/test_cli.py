"""The command line on files, as a user types it."""

from pathlib import Path

import pytest

from moe_placement.cli import main
from moe_placement.traces import Traffic, generate_trace, write_trace
from moe_placement.wire.codec import decode_placement

CLUSTER = ["--nodes", "2", "--shards", "2", "--slots", "5"]


@pytest.fixture
def trace(tmp_path: Path) -> str:
    path = tmp_path / "trace.npz"
    write_trace(
        path, generate_trace(Traffic(tokens=600, layers=2, experts=16, top_k=2, communities=4, prompt_tokens=20))
    )
    return str(path)


def test_plan_improve_and_simulate(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main(["plan", trace, *CLUSTER, "--out", first, "--sglang", str(tmp_path / "map.json")]) == 0
    assert "A first placement of 16 experts x 2 layers on 4 shards" in capsys.readouterr().out
    assert main(["plan", trace, *CLUSTER, "--current", first, "--max-moves", "4", "--out", second]) == 0
    before, after = (decode_placement(Path(name).read_text().strip()) for name in (first, second))
    assert (after.held & ~before.held).sum() <= 4
    assert main(["simulate", trace, *CLUSTER, second]) == 0
    assert "second" in capsys.readouterr().out


def test_compare_shows_all_contestants(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", trace, *CLUSTER]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("round-robin", "eplb-global", "eplb-hierarchical", "moe-placement"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "missing.npz", *CLUSTER], "missing.npz"),
        (["plan", "{trace}", "--shards", "2", "--slots", "3"], "10 too few"),
        (["plan", "{trace}", *CLUSTER, "--picture", "x.gif"], "written as .png or .svg"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, trace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(trace=trace) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("moe-placement: ")


def test_pictures(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        path = tmp_path / f"picture{suffix}"
        assert main(["plan", trace, *CLUSTER, "--picture", str(path)]) == 0
        assert path.stat().st_size > 1000
