"""``moe-placement convert`` on files of vLLM and SGLang, and the messages that lead there."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moe_placement.cli import main
from moe_placement.encoding import decode_placement
from moe_placement.engines import read_sglang_details
from moe_placement.traces import read_trace, write_trace

torch = pytest.importorskip("torch")

DENSE = {"num_hidden_layers": 5, "mlp_only_layers": [0, 3]}
"""The model of the recordings: layers 1, 2 and 4 are MoE layers of 8 experts, 2 per token."""
MOE = [1, 2, 4]
RANKS = ["--shards", "4", "--slots", "3"]


def sets(tokens: int, seed: int = 0) -> np.ndarray:
    """int64 ``[tokens, 5, 2]``; -1 in dense layers."""
    random = np.random.default_rng(seed)
    ids = random.random((tokens, 5, 8)).argsort(axis=2)[:, :, :2]
    ids[:, [0, 3]] = -1
    return ids


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """What SGLang and vLLM write, of one model, and its config.json."""
    tokens = 64
    ids = np.full((5, tokens, 8), -1)
    ids[:, :, :2] = sets(tokens).transpose(1, 0, 2)
    record = {
        "forward_pass_id": 0, "rank": 0, "input_ids": [5] * tokens, "positions": list(range(tokens)),
        "extend_seq_lens": [tokens], "forward_mode": 1, "topk_ids_of_layer": torch.tensor(ids, dtype=torch.int32),
    }  # fmt: skip
    rows = torch.arange(8).repeat(5, 1)
    torch.save({"records": [record], "last_physical_to_logical_map": rows}, tmp_path / "details.pt")
    counts = torch.zeros((3, 5, 8), dtype=torch.int32)
    counts[:, MOE] = torch.arange(1, 9, dtype=torch.int32)
    torch.save({"rank": 0, "logical_count": counts}, tmp_path / "stat.pt")
    routed = np.maximum(sets(10, 1), 0).astype(np.uint8)  # a dense layer reads as expert 0 chosen twice
    np.save(tmp_path / "request.npy", routed)
    np.savez(tmp_path / "requests.npz", a=routed, b=routed[:4])
    lines = [json.dumps({"choices": [{"routed_experts": packed(routed)}, {"routed_experts": None}]})]
    lines += [
        json.dumps({"prompt_routed_experts": routed[:3].tolist(), "choices": [{"routed_experts": routed[3:].tolist()}]})
    ]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines))
    (tmp_path / "config.json").write_text(json.dumps(DENSE))
    (tmp_path / "map.json").write_text(json.dumps({"physical_to_logical_map": [list(range(8))] * 5}))
    np.savez(tmp_path / "maps.npz", physical_to_logical_map=np.tile(np.arange(8), (3, 1)))
    return tmp_path


def packed(array: np.ndarray) -> str:
    stream = io.BytesIO()
    np.save(stream, array)
    return base64.b64encode(stream.getvalue()).decode()


def run(folder: Path, *arguments: str) -> int:
    return main([argument.format(dir=folder) for argument in arguments])


def test_an_sglang_recording_of_a_model_with_dense_layers_becomes_a_map_with_their_rows(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(files, "convert", "trace", "{dir}/details.pt", "--out", "{dir}/t.npz") == 0
    assert "64 tokens of 1 prompts, 3 layers of 8 experts, 2 per token" in capsys.readouterr().out
    assert (read_trace(files / "t.npz").ids == sets(64)[:, MOE]).all()
    plan = ["plan", "{dir}/t.npz", *RANKS, "--sglang", "{dir}/new.json", "--out", "{dir}/p"]
    assert run(files, *plan) == 1
    message = capsys.readouterr().err
    assert "row n of --sglang's file is the model's layer n" in message
    assert "give --config with the model's config.json, or --moe-layers" in message
    assert not (files / "new.json").exists()
    assert not (files / "p").exists()
    for named in (["--config", "{dir}/config.json"], ["--moe-layers", "1-2,4"]):
        assert run(files, *plan, *named) == 0
        rows = np.array(json.loads((files / "new.json").read_text())["physical_to_logical_map"])
        assert rows.shape == (5, 12)
        placement = decode_placement((files / "p").read_text().strip())
        for row, layer in zip(rows[MOE], placement.slots, strict=True):
            assert (row[layer >= 0] == layer[layer >= 0]).all()
    assert run(files, *plan, "--moe-layers", "1-2,4", "--model-layers", "7") == 0
    assert len(json.loads((files / "new.json").read_text())["physical_to_logical_map"]) == 7


def test_loads_of_mode_stat_can_be_planned_from(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(files, "convert", "statistics", "{dir}/stat.pt", "--top-k", "2", "--out", "{dir}/s") == 0
    assert "54 tokens in 3 windows, loads of 3 layers of 8 experts" in capsys.readouterr().out
    assert run(files, "plan", "{dir}/s", *RANKS, "--out", "{dir}/p") == 0
    assert "A first placement of 8 experts x 3 layers" in capsys.readouterr().out
    assert decode_placement((files / "p").read_text().strip()).layers == 3
    assert run(files, "simulate", "{dir}/s", "{dir}/p") == 1
    assert "it holds statistics, which only plan reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "tokens", "prompts"), [("request.npy", 10, 1), ("requests.npz", 14, 2), ("responses.jsonl", 20, 2)]
)
def test_vllm_recordings_become_traces(files: Path, name: str, tokens: int, prompts: int) -> None:
    assert run(files, "convert", "trace", f"{{dir}}/{name}", "--experts", "8", "--out", "{dir}/t.npz") == 0
    trace = read_trace(files / "t.npz")
    assert trace.ids.shape == (tokens, 3, 2)
    assert len(np.unique(trace.prompt)) == prompts
    assert (trace.ids[:4] == sets(10, 1)[:4, MOE]).all()


def test_maps_there_and_back(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, named in (("map.json", "1-2,4"), ("details.pt", "1,2,4"), ("maps.npz", "all")):
        arguments = ["--shards", "4", "--moe-layers", named, "--out", "{dir}/p"]
        assert run(files, "convert", "placement", f"{{dir}}/{source}", *arguments) == 0
        placement = decode_placement((files / "p").read_text().strip())
        assert (placement.layers, placement.experts, placement.shard_slots) == (3, 8, (2,) * 4)
        assert (placement.slots == np.arange(8)).all()
    capsys.readouterr()
    assert run(files, "convert", "map", "{dir}/p", "--out", "{dir}/m.json", "--config", "{dir}/config.json") == 0
    assert "5 rows, those of MoE layers are 1-2, 4" in capsys.readouterr().out
    assert json.loads((files / "m.json").read_text()) == json.loads((files / "map.json").read_text())
    assert run(files, "convert", "map", "{dir}/p", "--out", "{dir}/m.npz") == 0
    with np.load(files / "m.npz") as arrays:
        assert set(arrays) == {"physical_to_logical_map", "logical_to_physical_map", "logical_replica_count"}


T = ["--out", "{dir}/t.npz"]
FOUR = ["--shards", "4"]
BACK = ["convert", "placement", "{dir}/map.json"]
MAP = ["convert", "map", "{dir}/q", "--out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # other commands, given a file of an engine
        (["plan", "{dir}/details.pt", *RANKS], "`moe-placement convert trace {dir}/details.pt --out TRACE.npz`"),
        (["compare", "{dir}/stat.pt", *RANKS], "`convert statistics` for those of mode stat"),
        (["plan", "{dir}/request.npy", *RANKS], "`moe-placement convert trace {dir}/request.npy --experts N"),
        (["plan", "{dir}/requests.npz", *RANKS], "`moe-placement convert trace {dir}/requests.npz --experts N"),
        (["simulate", "{dir}/responses.jsonl", "{dir}/map.json"], "convert trace {dir}/responses.jsonl --experts N"),
        (["plan", "{dir}/map.json", *RANKS], "`moe-placement convert placement {dir}/map.json --shards N"),
        (["simulate", "{dir}/ours.npz", "{dir}/map.json"], "`moe-placement convert placement {dir}/map.json"),
        (["plan", "{dir}/ours.npz", *RANKS, "--current", "{dir}/maps.npz"], "convert placement {dir}/maps.npz"),
        (["plan", "{dir}/q", *RANKS], "it holds a placement: give it with --current, or after the trace"),
        (["simulate", "{dir}/ours.npz", "{dir}/ours.npz"], "it holds a trace"),
        # what a file does not say
        (["convert", "trace", "{dir}/request.npy", *T], "--experts is needed: "),
        (["convert", "placement", "{dir}/map.json", *FOUR, "--out", "{dir}/p"], "has 5 rows, and does not say"),
        ([*MAP, "{dir}/m.json"], "does not know which layers are dense: give --config"),
        # the other kind of file
        (["convert", "trace", "{dir}/stat.pt", *T], "`moe-placement convert statistics`"),
        (["convert", "statistics", "{dir}/details.pt", "--top-k", "2", *T], "`moe-placement convert trace`"),
        (["convert", "trace", "{dir}/details.pt", "{dir}/request.npy", *T], "files of two kinds"),
        (
            ["convert", "placement", "{dir}/stat.pt", *FOUR, "--moe-layers", "all", *T],
            "no physical_to_logical_map in it; found ['logical_count', 'rank']",
        ),
        (["convert", "trace", "{dir}/config.json", "--experts", "8", *T], "no response of vLLM in it"),
        (["convert", "trace", "{dir}/map.json", "--experts", "8", *T], "no response of vLLM in it"),
        (["convert", "trace", "{dir}/ours.npz", "--experts", "8", *T], "ours.npz: a trace already"),
        # what cannot be
        (["convert", "trace", "{dir}/missing.pt", *T], "missing.pt"),
        (["convert", "trace", "{dir}/details.pt", "--out", "{dir}/t.txt"], "--out {dir}/t.txt must end in .npz"),
        (["convert", "trace", "{dir}/details.pt", "--experts", "9", *T], "--experts is 9, the recording is of 8"),
        (["convert", "trace", "{dir}/request.npy", "--experts", "3", *T], "they must be within -1 .. 2"),
        (["convert", "trace", "{dir}/details.pt", "--moe-layers", "5", *T], "moe_layers[0] is 5"),
        (["convert", "statistics", "{dir}/stat.pt", "--top-k", "9", *T], "--top-k is 9"),
        ([*BACK, "--shards", "3", "--moe-layers", "all", *T], "does not divide among 3"),
        ([*BACK, "--shards", "2", "--moe-layers", "4-5", *T], "the MoE layers go up to 5"),
        ([*MAP, "{dir}/m.npz", "--moe-layers", "all"], "leave --config and --moe-layers out"),
        ([*MAP, "{dir}/m.json", "--moe-layers", "1"], "names 1 MoE layers of 2, {dir}/q has 3"),
        (["convert", "map", "{dir}/map.json", "--out", "{dir}/m.json"], "convert placement {dir}/map.json"),
        (["plan", "{dir}/ours.npz", *RANKS, "--moe-layers", "all"], "--moe-layers is about the rows of --sglang"),
        (
            ["plan", "{dir}/ours.npz", *RANKS, "--sglang", "{dir}/m.json", "--config", "{dir}/map.json"],
            "num_hidden_layers is None",
        ),
        (
            ["plan", "{dir}/ours.npz", *RANKS, "--sglang", "{dir}/m.json", "--moe-layers", "1", "--config", "x"],
            "--config and --moe-layers both name the MoE layers",
        ),
        (
            ["plan", "{dir}/ours.npz", *RANKS, "--sglang", "{dir}/m.json", "--model-layers", "5"],
            "--model-layers is of --moe-layers",
        ),
        (
            ["plan", "{dir}/ours.npz", *RANKS, "--sglang", "{dir}/m.json", "--moe-layers", "all", "--dead", "1"],
            "--sglang needs equally many slots on every shard, and dead ones have none",
        ),
    ],
)  # fmt: skip
def test_messages_lead_on(
    arguments: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moe_placement.cli.commands.solve", None)
    write_trace(files / "ours.npz", read_sglang_details([files / "details.pt"]))
    assert (
        run(files, "convert", "placement", "{dir}/maps.npz", "--shards", "4", "--moe-layers", "all", "--out", "{dir}/q")
        == 0
    )
    before = {path.name for path in files.iterdir()}
    capsys.readouterr()
    assert run(files, *arguments) == 1
    printed = capsys.readouterr()
    assert message.format(dir=files) in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert {path.name for path in files.iterdir()} == before


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("%%%", "routed_experts is no .npy file in base64"),
        (base64.b64encode(b"nothing").decode(), "routed_experts is no .npy file in base64"),
        ([[1, 2]], "routed_experts must be [tokens, layers, k]"),
        ([[[0.5]]], "must be integers"),
        (None, "no routed_experts in it; was vLLM run with --enable-return-routed-experts?"),
    ],
)
def test_damaged_responses_are_refused(
    value: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.json").write_text(json.dumps([{"choices": [{"routed_experts": value}]}]))
    assert run(tmp_path, "convert", "trace", "{dir}/r.json", "--experts", "8", "--out", "{dir}/t.npz") == 1
    assert message in capsys.readouterr().err
