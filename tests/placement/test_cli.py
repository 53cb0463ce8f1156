"""The command line on files, as a user types it."""

import argparse
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from moe_placement import Costs, h100_nodes, one_host
from moe_placement.cli import _parser, _topology, main
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


@pytest.fixture
def damaged(tmp_path: Path, trace: str) -> str:
    """A folder of files that are not what they are called."""
    whole = bytearray(Path(trace).read_bytes())
    whole[200:260] = bytes(60)
    (tmp_path / "flipped.npz").write_bytes(whole)
    with (tmp_path / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "text").write_text("p9.AAAA")
    return str(tmp_path)


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
        (["plan", "{trace}", *CLUSTER, "--max-moves", "3"], "name it with --current"),
        (["plan", "{trace}", *CLUSTER, "--preset", "sockets"], "--preset sockets is one machine, --nodes is 2"),
        (["plan", "{trace}", *CLUSTER, "--network-bandwidth", "nan"], "network_bandwidth is nan"),
        (["plan", "{trace}", *CLUSTER, "--spare-slots", "-1"], "spare_slots is -1"),
        (["plan", "{trace}", "--nodes", "0", "--shards", "2", "--slots", "9"], "--nodes 0"),
        (["plan", "{damaged}/flipped.npz", *CLUSTER], "flipped.npz: not a sound .npz archive"),
        (["plan", "{damaged}/single.npz", *CLUSTER], "single.npz: a single array"),
        (["plan", "{damaged}/binary", *CLUSTER], "binary: not a sound .npz archive"),
        (["plan", "{trace}", *CLUSTER, "--current", "{damaged}/binary"], "binary: "),
        (["simulate", "{trace}", *CLUSTER, "{damaged}/text"], "text: unknown placement format"),
        (["simulate", "{trace}", *CLUSTER, "{damaged}"], "Is a directory"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, trace: str, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(trace=trace, damaged=damaged) for argument in arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("moe-placement: ")
    assert error.count("\n") == 1


def options(*arguments: str) -> argparse.Namespace:
    return _parser().parse_args(["compare", "t.npz", "--shards", "8", "--slots", "9", *arguments])


def test_one_node_is_of_gpus_unless_sockets_are_asked_for() -> None:
    assert _topology(options()) == h100_nodes(1, 8, 9)
    assert _topology(options("--preset", "sockets")) == one_host(8, 9)


def test_every_cost_of_a_preset_can_be_overridden() -> None:
    for item in fields(Costs):
        name = "--" + item.name.replace("_", "-")
        changed = _topology(options(name) if item.name == "overlap" else options(name, "7.5"))
        assert changed.costs == replace(Costs(), **{item.name: True if item.name == "overlap" else 7.5})  # type: ignore[arg-type]  # names are the fields'
    assert _topology(options("--spare-slots", "3")).spare_slots == 3


def test_pictures(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for suffix in (".png", ".svg"):
        path = tmp_path / f"picture{suffix}"
        assert main(["plan", trace, *CLUSTER, "--picture", str(path)]) == 0
        assert path.stat().st_size > 1000
