"""Other engines' formats, made here field by field as their sources write them."""

import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from moe_placement import InvalidPlacementError, InvalidTraceError, Placement
from moe_placement.engines import (
    from_physical_to_logical,
    physical_map,
    read_sglang_details,
    read_sglang_statistics,
    trace_from_vllm,
    write_sglang_location,
)

torch = pytest.importorskip("torch")
PLACEMENT = Placement.of([[0, 1, 2, 1], [2, 0, 1, -1]], [2, 2], 3)


def test_maps_by_hand() -> None:
    maps = physical_map(PLACEMENT)
    assert maps.physical_to_logical.tolist() == [[0, 1, 2, 1], [2, 0, 1, 1]]
    assert maps.logical_to_physical.tolist() == [[[0, -1], [1, 3], [2, -1]], [[1, -1], [2, 3], [0, -1]]]
    assert maps.replica_count.tolist() == [[1, 2, 1], [1, 2, 1]]
    assert (from_physical_to_logical(maps.physical_to_logical, 2, 3).held == PLACEMENT.held).all()


def test_sglang_wants_a_row_for_each_layer_of_the_model(tmp_path: Path) -> None:
    write_sglang_location(tmp_path / "map.json", PLACEMENT, moe_layers=[1, 2], model_layers=3)
    rows = json.loads((tmp_path / "map.json").read_text())["physical_to_logical_map"]
    assert rows == [[0, 1, 2, 1], [0, 1, 2, 1], [2, 0, 1, 1]]


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement.of([[0, 1, 2]], [1, 2], 3), "equally many slots"),
        (Placement.of([[0, 1, -1, -1]], [2, 2], 2), "layer 0: shard 1 holds no expert"),
    ],
)
def test_what_engines_cannot_load_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        physical_map(placement)


def test_maps_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InvalidPlacementError, match="does not divide among 3 shards"):
        from_physical_to_logical([[0, 1]], 3, 2)


def test_sglang_statistics(tmp_path: Path) -> None:
    counts = torch.tensor([[[0, 0], [3, 1]], [[0, 0], [2, 2]]], dtype=torch.int32)
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}, tmp_path / "s.pt")
    statistics = read_sglang_statistics(tmp_path / "s.pt", top_k=1)
    assert statistics.load.tolist() == [[5, 3]]
    assert statistics.windows.tolist() == [[[3, 1]], [[2, 2]]]


def test_sglang_details(tmp_path: Path) -> None:
    ids = torch.tensor([[[0, 2], [1, -1], [-1, -1]], [[3, 1], [0, -1], [-1, -1]]], dtype=torch.int32)
    record = {
        "forward_pass_id": 7, "rank": 0, "gatherer_key": "primary", "input_ids": [5, 6, 7], "positions": [0, 1, 0],
        "topk_ids_of_layer": ids, "misc_objects": [],
    }  # fmt: skip
    slots = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 1]])
    torch.save({"records": [record], "last_physical_to_logical_map": slots}, tmp_path / "d.pt")
    trace = read_sglang_details([tmp_path / "d.pt"])
    assert trace.experts == 3
    assert trace.ids.tolist() == [[[0, 2], [1, 0]], [[1, -1], [2, -1]]]
    assert trace.prompt[0] == trace.prompt[1]


def test_vllm_outputs() -> None:
    trace = trace_from_vllm([np.zeros((2, 3, 1), dtype=np.int16), np.ones((1, 3, 1), dtype=np.int16)], experts=2)
    assert trace.ids.shape == (3, 3, 1)
    assert trace.prompt.tolist() == [0, 0, 1]
    with pytest.raises(InvalidTraceError, match="routed_experts must be"):
        trace_from_vllm([np.zeros((2, 3))], experts=2)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (print, ("never",))


def test_a_file_that_wants_to_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(tmp_path / "e.pt", "w") as archive:
        archive.writestr("e/data.pkl", pickle.dumps({"logical_count": Evil()}))
    with pytest.raises(InvalidTraceError, match="refused to load"):
        read_sglang_statistics(tmp_path / "e.pt", 1)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"PK no zip"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(InvalidTraceError):
        read_sglang_statistics(tmp_path / "x.pt", 1)


def test_a_dump_of_another_mode_is_refused(tmp_path: Path) -> None:
    torch.save({"records": []}, tmp_path / "d.pt")
    with pytest.raises(InvalidTraceError, match="no logical_count in it; found"):
        read_sglang_statistics(tmp_path / "d.pt", 1)
