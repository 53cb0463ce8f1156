"""`make gpu-check` with its smallest model: that all of it works, and what it writes. Its figures mean nothing here."""

import json

from benchmarks.gpu.__main__ import main
from benchmarks.gpu.parts import PARTS

from moe_serving.gpu import attention


def test_all_parts_are_measured_and_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(attention, "PROGRAMS", 4)  # of which an interpreter runs one after the other
    file = tmp_path / "gpu.json"
    assert main(["--size", "smallest", "--json", str(file)]) == 0, capsys.readouterr().out
    told = json.loads(file.read_text())
    assert told["bandwidth_bytes_s"] > 0 and told["torch"] and told["triton"]
    assert list(told["parts"]) == list(PARTS)
    assert told["parts"]["exactness in float32"] == {"answers 2": {"answers": 2, "equal": 2, "wrong": 0}}
    (decoding,) = told["parts"]["decoding"].values()
    assert decoding["batch"] == 2 and decoding["bytes"] > 0
    assert all(decoding[name] > 0 for name in ("graph_ms", "engine_ms", "transformers_ms", "of_limit", "ratio"))
    assert all(row["of_limit"] > 0 for name in ("experts", "attention") for row in told["parts"][name].values())
    assert "decoding: batch 2, graph_ms" in capsys.readouterr().out
