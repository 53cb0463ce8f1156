"""Other engines' formats, made here field by field as their sources write them."""

import io
import json
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import InvalidPlacementError, InvalidTraceError, Placement, RoutingStatistics
from moe_placement.engines import (
    ModelLayers,
    from_physical_to_logical,
    physical_map,
    read_model_layers,
    read_physical_map,
    read_sglang_details,
    read_sglang_statistics,
    trace_from_vllm,
    write_sglang_location,
    write_vllm_maps,
)
from moe_placement.engines.torchfile import read_torch_file

torch = pytest.importorskip("torch")
PLACEMENT = Placement.of([[0, 1, 2, 1], [2, 0, 1, -1]], [2, 2], 3)


def test_maps_by_hand() -> None:
    maps = physical_map(PLACEMENT)
    assert maps.physical_to_logical.tolist() == [[0, 1, 2, 1], [2, 0, 1, 0]]  # 0 or 2 on the second shard, all alike
    assert maps.logical_to_physical.tolist() == [[[0, -1], [1, 3], [2, -1]], [[1, 3], [2, -1], [0, -1]]]
    assert maps.replica_count.tolist() == [[1, 2, 1], [2, 1, 1]]
    held = from_physical_to_logical(maps.physical_to_logical, 2, 3).held
    assert held[PLACEMENT.held].all()
    assert held.sum() == PLACEMENT.held.sum() + 1


@pytest.mark.parametrize(
    ("row", "load", "expected"),
    [
        ([0, 1, 2, -1], [1, 1, 9], [0, 1, 2, 0]),  # 2 is on that shard already; 0 and 1 are alike
        ([0, 1, 2, -1], [1, 3, 2], [0, 1, 2, 1]),  # 4 beside 2: half of 3 comes over
        ([0, -1, 1, 2], [6, 1, 1], [0, 1, 1, 2]),  # the fullest shard gets the least
        ([0, -1, -1, -1], [5], [0, 0, 0, 0]),  # nothing but this expert: twice on a shard
        ([0, 1, -1, -1], [4, 4], [0, 1, 0, 1]),
        ([-1, -1, 0, 1], [0, 0], [0, 1, 0, 1]),  # without load, too
    ],
)
def test_free_slots_are_filled_where_that_evens_out_loads(
    row: list[int], load: list[float], expected: list[int]
) -> None:
    placement = Placement.of([row], [2, 2], len(load))
    assert physical_map(placement, [load]).physical_to_logical.tolist() == [expected]


def test_filling_balances_better_than_a_copy_beside_its_like() -> None:
    """Fullest shard by mean, of 300 placements with one to three free slots on each shard."""
    random = np.random.default_rng(0)
    fullest = []
    for _ in range(300):
        shards, experts = int(random.integers(2, 6)), int(random.integers(5, 24))
        slots = -(-experts // shards) + int(random.integers(1, 3))
        load = random.random((1, experts)) ** 3
        order = np.append(random.permutation(experts), [-1] * (shards * slots - experts)).reshape(slots, shards).T
        placement = Placement.of([order.ravel()], [slots] * shards, experts)
        filled = physical_map(placement, load).physical_to_logical[0]
        assert (filled >= 0).all()
        assert (filled[placement.slots[0] >= 0] == placement.slots[0][placement.slots[0] >= 0]).all()
        beside = placement.slots[0].astype(int).reshape(shards, slots)
        beside = np.where(beside < 0, beside[:, :1], beside).ravel()
        carried = [
            (load[0] / np.bincount(row, minlength=experts))[row].reshape(shards, slots).sum(axis=1)
            for row in (filled, beside)
        ]
        fullest.append([shard.max() / shard.mean() for shard in carried])
    ours, theirs = np.mean(fullest, axis=0) - 1
    assert ours < 0.4 * theirs


@pytest.mark.parametrize("load", [[[1, 2]], [[1, 1, 1]] * 3, [[-1, 1, 1]] * 2])
def test_loads_of_another_model_are_refused(load: list[list[int]]) -> None:
    with pytest.raises(InvalidPlacementError, match="loads"):
        physical_map(PLACEMENT, load)


def test_sglang_wants_a_row_for_each_layer_of_the_model(tmp_path: Path) -> None:
    write_sglang_location(tmp_path / "map.json", PLACEMENT, moe_layers=[1, 2], model_layers=3)
    rows = json.loads((tmp_path / "map.json").read_text())["physical_to_logical_map"]
    assert rows == [[0, 1, 2, 1], [0, 1, 2, 1], [2, 0, 1, 0]]
    write_sglang_location(tmp_path / "map.json", PLACEMENT, [1, 2], 3, load=[[1, 1, 1], [0, 1, 9]])
    assert json.loads((tmp_path / "map.json").read_text())["physical_to_logical_map"][2] == [2, 0, 1, 2]


@pytest.mark.parametrize(
    ("name", "layers", "total", "message"),
    [
        ("map.pt", [0, 1], None, "map.pt: the name must end in .json"),
        ("map.json", [1, 1], 3, "different layers below 3"),
        ("map.json", [0], 3, "2 different layers below 3"),
        ("map.json", [0, 3], 3, "different layers below 3"),
        ("map.json", [0, 0.7], 3, r"moe_layers\[1\] is 0.7"),
        ("map.json", 5, 3, "moe_layers is 5; it must be a list"),
        ("map.json", [0, 1], 2**31, "model_layers is 2147483648"),
        ("missing/map.json", [0, 1], None, "there is no folder .*missing; make it first"),
        ("map.json", [0, 1], -1, "model_layers is -1"),
        ("map.json", None, None, "moe_layers is None; it must be a list"),
    ],
)
def test_what_sglang_could_not_read_is_not_written(
    tmp_path: Path, name: str, layers: Any, total: Any, message: str
) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        write_sglang_location(str(tmp_path / name), PLACEMENT, layers, total)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("placement", "message"),
    [
        (Placement.of([[0, 1, 2]], [1, 2], 3), "equally many slots"),
        (Placement.of(np.zeros((0, 4), dtype=int), [2, 2], 2), "layers of the placement is 0"),
    ],
)
def test_what_engines_cannot_load_is_refused(placement: Placement, message: str) -> None:
    with pytest.raises(InvalidPlacementError, match=message):
        physical_map(placement)


def test_maps_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InvalidPlacementError, match="does not divide among 3 shards"):
        from_physical_to_logical([[0, 1]], 3, 2)
    with pytest.raises(InvalidPlacementError, match="shards is 0"):
        from_physical_to_logical([[0, 1]], 0, 2)
    with pytest.raises(InvalidPlacementError, match="physical_to_logical_map must be one array"):
        from_physical_to_logical([[0, 1], [0]], 1, 2)


def test_vllm_maps_as_a_file(tmp_path: Path) -> None:
    write_vllm_maps(tmp_path / "maps.npz", PLACEMENT)
    maps = physical_map(PLACEMENT)
    with np.load(tmp_path / "maps.npz") as arrays:
        assert (arrays["physical_to_logical_map"] == maps.physical_to_logical).all()
        assert (arrays["logical_to_physical_map"] == maps.logical_to_physical).all()
        assert (arrays["logical_replica_count"] == maps.replica_count).all()
    assert (read_physical_map(tmp_path / "maps.npz") == maps.physical_to_logical).all()
    with pytest.raises(InvalidPlacementError, match=r"must end in \.npz"):
        write_vllm_maps(tmp_path / "maps.json", PLACEMENT)


MODEL = {"num_hidden_layers": 6}


@pytest.mark.parametrize(
    ("fields", "moe"),
    [
        ({"first_k_dense_replace": 2}, [2, 3, 4, 5]),  # DeepSeek, GLM, Kimi, dots
        ({"first_k_dense_replace": 1, "moe_layer_freq": 2}, [2, 4]),
        ({"first_k_dense_replace": None, "moe_layer_freq": [0, 1, 1, 0, 1, 0]}, [1, 2, 4]),  # MiMo
        ({"mlp_only_layers": [0, 3], "decoder_sparse_step": 1}, [1, 2, 4, 5]),  # Qwen
        ({"decoder_sparse_step": 2}, [1, 3, 5]),
        ({"mlp_only_layers": []}, [0, 1, 2, 3, 4, 5]),
        ({"mlp_layer_types": ["dense", "sparse", "sparse", "dense", "hash_moe", "moe"]}, [1, 2, 4, 5]),
        ({"moe_layer_start_index": 1, "moe_layer_interval": 1, "moe_layer_end_index": -1}, [1, 2, 3, 4, 5]),  # Ernie
        ({"moe_layer_start_index": 2, "moe_layer_interval": 2, "moe_layer_end_index": 4}, [3]),
        ({"interleave_moe_layer_step": 2}, [1, 3, 5]),  # Llama 4
        ({"interleave_moe_layer_step": 2, "moe_layers": [5]}, [5]),
        ({"expert_layer_period": 3, "expert_layer_offset": 1}, [1, 4]),  # Jamba
        ({"num_dense_layers": 4}, [4, 5]),  # LFM2
        ({"model_type": "mixtral"}, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_a_config_knows_which_layers_are_moe_layers(tmp_path: Path, fields: dict[str, Any], moe: list[int]) -> None:
    for content in (MODEL | fields, {"model_type": "whole", "text_config": MODEL | fields}):
        (tmp_path / "config.json").write_text(json.dumps(content))
        assert read_model_layers(tmp_path / "config.json") == ModelLayers(tuple(moe), 6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("nothing", "no config.json of a model"),
        ("[1]", r"no config.json of a model \(it holds a list\)"),
        ("{}", "num_hidden_layers is None"),
        (json.dumps(MODEL), r"does not say which of the 6 layers are MoE layers \(model_type is 'None'\): name them"),
        (json.dumps(MODEL | {"model_type": "qwen3"}), "model_type is 'qwen3'"),
        (json.dumps(MODEL | {"first_k_dense_replace": 6}), "all 6 layers are dense"),
        (json.dumps(MODEL | {"first_k_dense_replace": "2"}), "first_k_dense_replace is '2'"),
        (json.dumps(MODEL | {"first_k_dense_replace": 0, "moe_layer_freq": 0}), "moe_layer_freq is 0"),
        (json.dumps(MODEL | {"mlp_only_layers": 3}), "mlp_only_layers is 3; it must be a list"),
        (json.dumps(MODEL | {"mlp_layer_types": ["sparse"]}), "mlp_layer_types must name all 6 layers"),
        (json.dumps({"num_hidden_layers": 10**9}), "num_hidden_layers is 1000000000"),
    ],
)
def test_a_config_that_does_not_say_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(InvalidPlacementError, match=message):
        read_model_layers(tmp_path / "config.json")


def test_sglang_statistics(tmp_path: Path) -> None:
    counts = torch.tensor([[[0, 0], [3, 1]], [[0, 0], [2, 2]]], dtype=torch.int32)
    torch.save({"rank": 0, "logical_count": counts, "average_utilization_rate_over_window": None}, tmp_path / "s.pt")
    statistics = read_sglang_statistics(tmp_path / "s.pt", top_k=1)
    assert statistics.load.tolist() == [[5, 3]]
    assert statistics.windows.tolist() == [[[3, 1]], [[2, 2]]]


SLOTS = torch.tensor([[0, 1, 2, 1], [2, 0, 1, 1]])


def one_pass(number: int, positions: list[int], lengths: list[int] | None, ids: object = None) -> dict[str, object]:
    """A record as ``_DetailSinglePassGatherer.collect`` and ``_DetailAccumulator.append`` make it."""
    default = torch.zeros((2, len(positions), 2), dtype=torch.int32) - torch.tensor([0, 1], dtype=torch.int32)
    return {
        "forward_pass_id": number, "rank": 0, "gatherer_key": "primary", "input_ids": [5] * len(positions),
        "positions": positions, "extend_seq_lens": lengths, "forward_mode": 2 if lengths is None else 1,
        "topk_ids_of_layer": default if ids is None else ids, "misc_objects": [],
        "global_physical_count": torch.zeros((2, 4), dtype=torch.int32),
    }  # fmt: skip


def details(path: Path, *records: dict[str, object]) -> Path:
    torch.save({"records": list(records), "last_physical_to_logical_map": SLOTS}, path)
    return path


def test_sglang_details(tmp_path: Path) -> None:
    ids = torch.tensor([[[0, 2], [1, -1], [-1, -1]], [[3, 1], [0, -1], [-1, -1]]], dtype=torch.int32)
    trace = read_sglang_details([details(tmp_path / "d.pt", one_pass(7, [0, 1, 0], [2, 1], ids))])
    assert trace.experts == 3
    assert trace.ids.tolist() == [[[0, 2], [1, 0]], [[1, -1], [2, -1]]]
    assert trace.prompt.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("passes", "prompts"),
    [
        # two prompts, decoded side by side; the first ends, a third one comes
        (
            [([0, 1, 2, 0, 1], [3, 2]), ([3, 2], None), ([3], None), ([0], [1]), ([4, 1], None)],
            [0, 0, 0, 1, 1, 0, 1, 1, 2, 1, 2],
        ),
        # a prompt in two chunks, a decode pass between them, another prompt beside its end
        ([([0, 1], [2]), ([9], None), ([2, 3, 0], [2, 1]), ([4, 1, 10], None)], [0, 0, 1, 0, 0, 2, 0, 2, 1]),
        # a prefix hit is a prompt of its own where nothing ends there
        ([([0, 1], [2]), ([7, 8], [2]), ([9, 2], None)], [0, 0, 1, 1, 1, 0]),
        # requests of equal length cannot be told apart: one prompt
        ([([0, 1, 0, 1, 0], [2, 2, 1]), ([2, 2, 1], None)], [0, 0, 0, 0, 1, 0, 0, 1]),
        # running before the recording began, and positions that jump: one prompt for the whole run
        ([([5, 8], None), ([6, 9], None), ([0], [1]), ([11, 7, 1], None)], [0, 0, 0, 0, 1, 0, 0, 1]),
    ],
)
def test_sglang_requests_are_followed_through_passes(
    tmp_path: Path, passes: list[tuple[list[int], list[int] | None]], prompts: list[int]
) -> None:
    records = [one_pass(number, *step) for number, step in enumerate(passes)]
    assert read_sglang_details([details(tmp_path / "d.pt", *records)]).prompt.tolist() == prompts
    halves = [details(tmp_path / f"{i}.pt", *part) for i, part in enumerate((records[:2], records[2:]))]
    assert read_sglang_details(halves).prompt.tolist() == prompts


def test_sglang_dense_layers_and_columns_beyond_k_are_left_out(tmp_path: Path) -> None:
    ids = torch.full((2, 1, 8), -1, dtype=torch.int32)
    ids[1, 0, :2] = torch.tensor([0, 1])
    assert read_sglang_details([details(tmp_path / "d.pt", one_pass(0, [0], [1], ids))]).ids.tolist() == [[[2, 0]]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"topk_ids_of_layer": torch.full((2, 1, 2), 4)}, "slots up to 4 in 2 layers"),
        ({"topk_ids_of_layer": torch.zeros((2, 1, 2))}, r"topk_ids_of_layer must be integers \[layers, tokens, k\]"),
        ({"positions": [0, 1]}, "2 positions for 1 tokens"),
        ({"positions": [[0], 1]}, "positions must be one array"),
        ({"extend_seq_lens": [2]}, "for 1 tokens"),
        ({"rank": "x"}, "rank is 'x'"),
    ],
)
def test_damaged_details_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidTraceError, match=message):
        read_sglang_details([details(tmp_path / "d.pt", one_pass(0, [0], [1]) | change)])


def test_vllm_outputs() -> None:
    trace = trace_from_vllm([np.zeros((2, 3, 1), dtype=np.int16), np.ones((1, 3, 1), dtype=np.int16)], experts=2)
    assert trace.ids.shape == (3, 3, 1)
    assert trace.prompt.tolist() == [0, 0, 1]
    with pytest.raises(InvalidTraceError, match="routed_experts of request 0 must be"):
        trace_from_vllm([np.zeros((2, 3))], experts=2)
    with pytest.raises(InvalidTraceError, match="routed_experts of request 1 must be one array"):
        trace_from_vllm([[[[0]]], [[[0], [1, 0]]]], experts=2)
    with pytest.raises(InvalidTraceError, match=r"routed_experts must be .* got \[\(1, 1, 1\), \(1, 2, 1\)\]"):
        trace_from_vllm([[[[0]]], [[[0], [1]]]], experts=2)
    with pytest.raises(InvalidTraceError, match=r"routed_experts of request 0 run from -7 to -7; .* within -1 .. 1"):
        trace_from_vllm([[[[-7]]]], experts=2)
    with pytest.raises(InvalidTraceError, match="outputs is None; it must be a list"):
        trace_from_vllm(None, experts=2)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(InvalidTraceError, match="experts is 0"):
        trace_from_vllm([[[[0]]]], experts=0)
    with pytest.raises(InvalidTraceError, match="expert 1 is chosen twice"):
        trace_from_vllm([[[[1, 1]]]], experts=2)
    with pytest.raises(InvalidTraceError, match="routed_experts of request 0 run from 65537"):
        trace_from_vllm([np.full((1, 1, 1), 65537)], experts=2)


def test_vllm_dense_layers_and_tokens_not_captured_are_left_out() -> None:
    output = np.array([[[0, 0], [1, 0]], [[0, 0], [0, 2]], [[0, 0], [0, 0]]], dtype=np.int32)
    trace = trace_from_vllm([output, output[:1]], experts=3)
    assert trace.ids.tolist() == [[[1, 0]], [[0, 2]], [[1, 0]]]
    assert trace.prompt.tolist() == [0, 0, 1]
    RoutingStatistics.of_ids(trace.ids, 3)
    assert (trace_from_vllm([output], 3, moe_layers=[1]).ids == trace_from_vllm([output], 3).ids).all()
    assert trace_from_vllm([output[:, :, :1]], 3, moe_layers=[1]).ids.tolist() == [[[1]], [[0]], [[0]]]
    for layers, message in (
        ([2], r"moe_layers\[0\] is 2; it must be a whole number from 0 to 1"), ([0.7], r"moe_layers\[0\] is 0.7"),
        (1, "moe_layers is 1; it must be a list"),
        ([1, 1], "names a layer twice"), ([], "names none"),
    ):  # fmt: skip
        with pytest.raises(InvalidTraceError, match=message):
            trace_from_vllm([output], 3, moe_layers=layers)  # type: ignore[arg-type]  # wrong on purpose


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


class Made:
    """Pickles as a call of what torch pickles a tensor with."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (torch._utils._rebuild_tensor_v2, self.arguments)


class Storage:
    pass


class Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        return ("storage", torch.LongStorage, "0", "cpu", 4) if isinstance(obj, Storage) else None


@pytest.mark.parametrize(
    ("size", "stride", "message"),
    [
        ((4,), (1,), None),
        ((10**12,), (0,), "larger than the file"),
        ((5,), (1,), "reaches element 4"),
        ((2,), (1, 1), "ValueError"),
        (("x",), (1,), "TypeError"),
    ],
)
def test_views_stay_within_the_file(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], message: str | None
) -> None:
    stream = io.BytesIO()
    Pickler(stream).dump({"logical_count": Made(Storage(), 0, size, stride, False, OrderedDict())})
    with zipfile.ZipFile(tmp_path / "v.pt", "w") as archive:
        archive.writestr("v/data.pkl", stream.getvalue())
        archive.writestr("v/data/0", np.arange(4).tobytes())
    if message is None:
        assert read_torch_file(tmp_path / "v.pt")["logical_count"].tolist() == [0, 1, 2, 3]
        return
    with pytest.raises(InvalidTraceError, match=message):
        read_torch_file(tmp_path / "v.pt")


@pytest.mark.parametrize(
    "program",
    [b"", b".", b"0.", b"h\x07.", b"\x80\x04\x95", b"(K\x01Q.", b"]K\x01K\x02s.", b"Nb.", b"Nr\xff\xff\xff\xff."],
)
def test_damaged_pickles_are_refused(tmp_path: Path, program: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "p.pt", "w") as archive:
        archive.writestr("p/data.pkl", program)
    with pytest.raises(InvalidTraceError, match=r"p\.pt"):
        read_torch_file(tmp_path / "p.pt")


def test_packed_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("z/data.pkl", bytes(10**6))
    with pytest.raises(InvalidTraceError, match="members are compressed"):
        read_torch_file(tmp_path / "z.pt")


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
@settings(max_examples=100)
def test_damaged_dumps_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, patch: bytes
) -> None:
    path = details(tmp_path_factory.getbasetemp() / "damaged.pt", one_pass(0, [0, 1], [2]))
    data = bytearray(path.read_bytes())
    at = position % len(data)
    data[at : at + len(patch)] = patch
    path.write_bytes(data)
    try:
        read_sglang_details([path])
    except InvalidTraceError as error:
        assert str(error)
