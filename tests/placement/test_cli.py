"""The command line on files, as a user types it."""

import argparse
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from moe_placement import Costs, Limits, encoding, h100_nodes, one_host
from moe_placement.cli import inputs, main, sizes
from moe_placement.cli.options import flag, limits, parser, topology
from moe_placement.cli.outputs import write_all
from moe_placement.traces import Trace, Traffic, generate_trace, read_trace, write_trace

CLUSTER = ["--nodes", "2", "--shards", "2", "--slots", "5"]
PLAN = ["plan", "{trace}", *CLUSTER]
SIMULATE = ["simulate", "{trace}"]
OTHERS = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces that are sound, traces that say little, a placement, and files that are not what they are called."""
    folder = tmp_path_factory.mktemp("files")
    trace = generate_trace(Traffic(tokens=600, layers=2, experts=16, top_k=2, communities=4, prompt_tokens=20))
    one_prompt, last_silent = np.zeros(600, dtype=int), trace.ids.copy()
    last_silent[:, 1] = -1
    thirds = np.arange(600) // 200
    for name, some in {
        "trace": trace,
        "empty": trace.take(np.zeros(600, dtype=bool)),
        "silent": replace(trace, ids=np.full_like(trace.ids, -1)),
        "half": replace(trace, ids=last_silent),
        "one": replace(trace, prompt=one_prompt),
        "kinds": Trace(trace.ids, 16, thirds, thirds, ("a", "b", "c")),
        "smaller": generate_trace(Traffic(tokens=60, layers=2, experts=8, top_k=2)),
    }.items():
        write_trace(folder / f"{name}.npz", some)
    whole = bytearray((folder / "trace.npz").read_bytes())
    whole[200:260] = bytes(60)
    (folder / "flipped.npz").write_bytes(whole)
    with (folder / "single.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    (folder / "binary").write_bytes(b"\xff\xfe\x00")
    (folder / "text").write_text("p9.AAAA")
    (folder / "folder").mkdir()
    assert main(["plan", str(folder / "trace.npz"), *CLUSTER, "--out", str(folder / "placement")]) == 0
    return folder


@pytest.fixture
def trace(files: Path) -> str:
    return str(files / "trace.npz")


@pytest.mark.slow
def test_all_traces_of_a_folder_are_one(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_trace(files / "trace.npz")
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, prompts in enumerate((range(15), range(15, 30))):
        write_trace(parts / f"trace-{number}.npz", whole.take(np.isin(whole.prompt, prompts)))
    (parts / "trace-2.npz.part").write_bytes(b"not yet")
    said = []
    for path in (files / "trace.npz", parts):
        assert main(["compare", str(path), *CLUSTER]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    monkeypatch.setattr(inputs, "MOST_IN_FOLDER", 1000)
    assert main(["compare", str(parts), *CLUSTER]) == 1
    assert "are read at once: copy some to another" in capsys.readouterr().err


def test_plan_improve_and_simulate(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert main(["plan", trace, *CLUSTER, "--out", first]) == 0
    assert "A first placement of 16 experts x 2 layers on 4 shards" in capsys.readouterr().out
    assert main(["plan", trace, *CLUSTER, "--current", first, "--max-moves", "4", "--out", second]) == 0
    before, after = (encoding.decode_placement(Path(name).read_text().strip()) for name in (first, second))
    assert (after.held & ~before.held).sum() <= 4
    assert main(["simulate", trace, second, "--nodes", "2"]) == 0
    assert "second" in capsys.readouterr().out


def test_dead_shards_are_named_and_take_nothing(trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, after = str(tmp_path / "first"), str(tmp_path / "after")
    roomy = ["--nodes", "2", "--shards", "2", "--slots", "8"]
    assert main(["plan", trace, *roomy, "--min-copies", "2", "--out", first]) == 0
    assert main(["plan", trace, *roomy, "--current", first, "--dead", "1", "--out", after]) == 0
    out = capsys.readouterr().out
    held, left = (encoding.decode_placement(Path(name).read_text().strip()).held for name in (first, after))
    assert f"shard 1 is dead: {held[:, :, 1].sum()} copies are lost" in out
    assert not left[:, :, 1].any()
    assert main(["simulate", trace, first, "--nodes", "2", "--dead", "1"]) == 0
    assert capsys.readouterr().out.startswith(f"dead: shards 1; {held[:, :, 1].sum()} copies there are lost")
    assert main(["plan", trace, *roomy, "--dead", "1,3", "--time-limit", "1e-9"]) == 0
    assert "on 4 shards (1, 3 dead)" in capsys.readouterr().out
    assert main(["compare", trace, *roomy, "--dead", "3"]) == 0
    assert capsys.readouterr().out.startswith("dead: shards 3; nothing is placed there")


def test_compare_shows_all_contestants(trace: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", trace, *CLUSTER]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("round-robin", "eplb-global", "eplb-hierarchical", "moe-placement"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "missing.npz", *CLUSTER], "missing.npz"),
        (["plan", "{trace}", "--shards", "2", "--slots", "3"], "10 too few"),
        (["compare", "{trace}", "--shards", "2", "--slots", "3"], "10 too few"),
        # limits and topology
        (
            [*PLAN, "--max-moves", "3"],
            "--max-moves 3 is about the way from a placement in force: name it with --current",
        ),
        ([*PLAN, "--max-moved-bytes", "3"], "--max-moved-bytes 3.0 is about the way"),
        ([*PLAN, "--spare-slots", "3"], "--spare-slots 3 is about the way"),
        ([*PLAN, "--spare-slots", "-1", "--current", "{files}/placement"], "--spare-slots is -1"),
        ([*PLAN, "--max-moves", "-1", "--current", "{files}/placement"], "--max-moves"),
        ([*PLAN, "--time-limit", "nan"], "--time-limit is nan"),
        ([*PLAN, "--workers", "0"], "--workers is 0"),
        ([*PLAN, "--min-copies", "5"], "--min-copies 5 needs as many shards with slots, there are 4"),
        ([*PLAN, "--network-bandwidth", "nan"], "--network-bandwidth is nan"),
        ([*PLAN, "--preset", "sockets"], "--preset sockets is one machine, --nodes is 2"),
        (["plan", "{trace}", "--nodes", "0", "--shards", "2", "--slots", "9"], "--nodes is 0"),
        (["plan", "{trace}", "--nodes", "-9", "--shards", "-9999", "--slots", "9"], "--nodes is -9"),
        (["plan", "{trace}", "--shards", "2", "--slots", "0"], "--slots is 0"),
        (
            ["plan", "{trace}", "--nodes", "100000", "--shards", "1000", "--slots", "5"],
            "100000000 shards are more than",
        ),
        (["compare", "{trace}", "--nodes", "100", "--shards", "100", "--slots", "500"], "shards x 500 slots are more"),
        ([*PLAN, "--dead", "4"], "--dead is 4; it must be a whole number from 0 to 3"),
        ([*PLAN, "--dead", "one"], "--dead is 'one': 'one' is neither a number nor a range"),
        ([*PLAN, "--dead", "0-3"], "no capacity: all shards with slots are dead"),
        ([*SIMULATE, "{files}/placement", "--nodes", "2", "--dead", "0-2"], "is on dead shards only ("),
        ([*PLAN, "--picture-layers", "1"], "--picture-layers is of --picture: name its file"),
        ([*PLAN, "--picture", "{files}/p.png", "--picture-layers", "2"], "--picture-layers is 2; it must be a whole"),
        # files that are not what they are called
        (["plan", "{files}/flipped.npz", *CLUSTER], "flipped.npz: "),
        (["plan", "{files}/single.npz", *CLUSTER], "single.npz: "),
        (["plan", "{files}/binary", *CLUSTER], "binary: "),
        (["plan", str(OTHERS), *CLUSTER], "README.md: "),
        ([*PLAN, "--current", "{files}/binary"], "binary: "),
        ([*PLAN, "--current", str(OTHERS)], "README.md: "),
        ([*SIMULATE, "{files}/text"], "text: unknown placement format 'p9'; this release reads 'p1'; name a file that"),
        ([*SIMULATE, "{trace}"], "trace.npz: "),
        ([*SIMULATE, "{files}"], "Is a directory"),
        (["compare", "{files}", *CLUSTER], "flipped.npz: "),
        (["compare", "{files}/folder", *CLUSTER], "folder has no trace (*.npz)"),
        # a placement and a cluster, or a trace, that are not of one another
        ([*SIMULATE, "{files}/placement", "--slots", "6"], "has 5 slots per shard, --slots is 6"),
        ([*SIMULATE, "{files}/placement", "--shards", "3"], "has 4 shards, --nodes 1 of 3 shards each are 3"),
        ([*SIMULATE, "{files}/placement", "--nodes", "3"], "has 4 shards, --nodes 3 of 1 shards each are 3"),
        (["simulate", "{files}/smaller.npz", "{files}/placement"], "smaller.npz is of 8 experts, "),
        # nothing to judge on
        (["simulate", "{files}/empty.npz", "{files}/placement"], "empty.npz has no traffic (0 tokens"),
        (["simulate", "{files}/silent.npz", "{files}/placement"], "silent.npz has no traffic (600 tokens"),
        (["compare", "{files}/empty.npz", *CLUSTER], "empty.npz has no traffic"),
        (["compare", "{files}/silent.npz", *CLUSTER], "silent.npz has no traffic"),
        (["compare", "{files}/one.npz", *CLUSTER], "one.npz has 1 prompts of 1 kinds of text"),
        (["compare", "{files}/kinds.npz", *CLUSTER], "kinds.npz has 3 prompts of 3 kinds of text"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(trace=files / "trace.npz", files=files) for argument in arguments]) == 1
    printed = capsys.readouterr()
    assert message in printed.err
    assert printed.err.startswith("moe-placement: ")
    assert (printed.err.count("\n"), printed.out) == (1, "")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (["--picture", "{out}/x.bmp"], "x.bmp must end in .png or .svg"),
        (["--sglang", "{out}/q.pt"], "q.pt must end in .json"),
        (["--out", "{out}/missing/q"], "there is no folder {out}/missing: make it first"),
        (["--picture", "{out}/missing/q.png"], "there is no folder"),
        (["--out", "{out}"], "--out {out} is a directory"),
        (["--out", "{out}/q.json", "--sglang", "{out}/../out/q.json"], "is the file of --out, too"),
        (["--out", "{out}/link"], "is the file of the trace, too"),
    ],
)
def test_outputs_are_checked_before_anything_is_solved(
    outputs: list[str], message: str, trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    out = tmp_path / "out"
    out.mkdir()
    (out / "link").symlink_to(trace)
    monkeypatch.setattr("moe_placement.cli.commands.solve", None)
    arguments = ["plan", trace, *CLUSTER, "--out", str(out / "first"), *outputs]
    assert main([argument.format(out=out) for argument in arguments]) == 1
    assert message.format(out=out) in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == ["link"]


def test_pictures_without_matplotlib(
    trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("moe_placement.cli.commands.solve", None)
    assert main(["plan", trace, *CLUSTER, "--picture", str(tmp_path / "x.png")]) == 1
    assert "--picture needs matplotlib: pip install matplotlib" in capsys.readouterr().err


def test_no_half_written_files_stay(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_text("half")
        raise OSError("disk full")

    (tmp_path / "b").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        write_all({tmp_path / "a": lambda path: path.write_text("whole"), tmp_path / "b": fail})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "old"}


@pytest.mark.slow
def test_links_and_pipes_are_written_through(trace: str, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to("target")
    command = [sys.executable, "-m", "moe_placement", "plan", trace, *CLUSTER, "--time-limit", "1e-9"]
    done = subprocess.run([*command, "--out", "/dev/stdout"], stdout=subprocess.PIPE, text=True, check=True)
    assert main([*command[3:], "--out", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == done.stdout.splitlines(keepends=True)[1]


@pytest.mark.parametrize(
    ("arguments", "compiled", "message"),
    [
        ([*PLAN], False, "warning: without Numba the search is about a hundred times slower"),
        (["compare", *PLAN[1:]], False, "pip install numba"),
        ([*PLAN, "--time-limit", "1e-9"], True, "was over before layers 0-1 were searched to the end"),
        (["compare", *PLAN[1:], "--time-limit", "1e-9"], True, "warning: --time-limit 1e-09 s was over"),
        (["plan", "{files}/empty.npz", *CLUSTER], True, "has no traffic in 2 of 2 layers (0 tokens): nothing is known"),
        (["plan", "{files}/silent.npz", *CLUSTER], True, "has no traffic in 2 of 2 layers (600 tokens)"),
        (["simulate", "{files}/half.npz", "{files}/placement"], True, "has no traffic in 1 of 2 layers (600 tokens)"),
        (
            ["compare", "{trace}", "--nodes", "3", "--shards", "1", "--slots", "6"],
            True,
            "eplb-hierarchical is left out",
        ),
    ],
)
def test_what_is_less_than_could_be_is_told(
    arguments: list[str], compiled: bool, message: str, files: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("moe_placement.compiled.COMPILED", compiled)
    assert main([argument.format(trace=files / "trace.npz", files=files) for argument in arguments]) == 0
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("moe-placement: warning: ")
    assert error.count("\n") == 1


def test_without_traffic_experts_are_spread_evenly(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["plan", str(files / "empty.npz"), *CLUSTER, "--out", str(out)]) == 0
    held = encoding.decode_placement(out.read_text().strip()).held
    assert held.any(axis=2).all()
    assert np.ptp(held.sum(axis=1)) == 0


def test_what_could_be_written_can_be_read() -> None:
    assert (sizes.SLOTS, sizes.CELLS) == (encoding._MAX_SLOTS, encoding._MAX_HELD)


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["plan", "t.npz", "--shards", "8", "--slots", "9", *arguments])


def test_one_node_is_of_gpus_unless_sockets_are_asked_for() -> None:
    assert topology(options()) == h100_nodes(1, 8, 9)
    assert topology(options("--preset", "sockets")) == one_host(8, 9)


def test_every_cost_of_a_preset_can_be_overridden() -> None:
    for item in fields(Costs):
        name = flag(item.name)
        changed = topology(options(name) if item.name == "overlap" else options(name, "7.5"))
        assert changed.costs == replace(Costs(), **{item.name: True if item.name == "overlap" else 7.5})  # type: ignore[arg-type]  # names are the fields'
    assert topology(options("--spare-slots", "3")).spare_slots == 3


def test_every_limit_has_a_flag() -> None:
    assert limits(options()) == Limits()
    for item in fields(Limits):
        name = flag(item.name)
        changed = limits(options(name) if item.name == "node_locality" else options(name, "7"))
        assert changed == replace(Limits(), **{item.name: True if item.name == "node_locality" else 7})  # type: ignore[arg-type]  # names are the fields'


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "t.npz", *CLUSTER, "--spare-slots", "3"],
        ["compare", "t.npz", *CLUSTER, "--max-moves", "3"],
        ["simulate", "t.npz", "p", "--spare-slots", "3"],
        ["plan", "t.npz", *CLUSTER, "--seed", "1.5"],
    ],
)
def test_flags_are_only_where_they_are_read(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)


@pytest.mark.slow
def test_pictures(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["plan", trace, *CLUSTER, "--picture", str(tmp_path / "picture.png")]) == 0
    assert (tmp_path / "picture.png").stat().st_size > 1000
    for layers, shown in (("1", {"1"}), ("all", {"0", "1"})):
        path = tmp_path / "layers.svg"
        assert main(["plan", trace, *CLUSTER, "--picture", str(path), "--picture-layers", layers]) == 0
        assert set(re.findall(r"<!-- layer (\d+)", path.read_text())) == shown
