"""What is told of a good checkpoint, and of each way one can be bad: reason, place, value, cure."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reference import build_checkpoint, reference_model
from safetensors.torch import load_file, save_file

from moe_serving.checkpoint import Checkpoint, ModelError, inspect_model


@pytest.mark.parametrize(
    ("variant", "architecture", "layers", "top_k", "intermediate"),
    [
        ("mixtral", "Mixtral", 4, 2, 96),
        ("qwen2_moe", "Qwen2Moe", 3, 3, 48),
        ("qwen3_moe", "Qwen3Moe", 2, 3, 48),
        ("olmoe", "Olmoe", 4, 3, 48),
    ],
)
def test_facts(checkpoint_of, variant, architecture, layers, top_k, intermediate):
    facts = inspect_model(str(checkpoint_of(variant)), "auto")
    assert facts.digest.startswith("sha256:")
    assert facts.model_dump(exclude={"digest"}) == {
        "architecture": architecture,
        "layers": layers,
        "experts": 8,
        "top_k": top_k,
        "bytes_per_expert": 3 * 64 * intermediate * 4,
        "dtype": "float32",
        "max_context": 512,
        "weights": "Checkpoint",
    }


def test_the_served_dtype_decides_the_bytes(checkpoint_of, tmp_path):
    served = inspect_model(str(checkpoint_of("mixtral")), "bfloat16")
    assert (served.dtype, served.bytes_per_expert) == ("bfloat16", 3 * 64 * 96 * 2)
    stored = build_checkpoint("mixtral", tmp_path, dtype=torch.bfloat16)
    assert inspect_model(str(stored), "auto").dtype == "bfloat16"
    change_config(stored, dtype=None)
    assert inspect_model(str(stored), "auto").dtype == "bfloat16", "what the tensors are, when the config is silent"
    change_config(stored, torch_dtype="float16")
    assert inspect_model(str(stored), "auto").dtype == "float16", "older checkpoints spell it torch_dtype"


@pytest.mark.parametrize(
    ("fields", "context"),
    [
        ({}, 512),
        # As Qwen's cards say: the length of the training times the factor.
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}}, 2048),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 400}}, 1600),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 1.5}}, 768),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}, "original_max_position_embeddings": 600}, 1200),
        # The field has the longer length already.
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 256}}, 512),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, 1024),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 128}}, 512),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 1024),
        ({"rope_scaling": {"rope_type": "yarn", "factor": "four"}}, 512),
        ({"rope_scaling": None}, 512),
    ],
    ids=str,
)
def test_scaled_positions_make_the_context_longer(checkpoint_of, tmp_path, fields, context):
    path = shutil.copytree(checkpoint_of("mixtral"), tmp_path / "scaled")
    change_config(path, **({"rope_parameters": None} | fields))
    assert inspect_model(str(path), "auto").max_context == context


def test_moe_layers_are_those_transformers_builds(checkpoint_of):
    for variant in ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe"):
        path = checkpoint_of(variant)
        layers = reference_model(path).model.layers
        sparse = tuple(number for number, layer in enumerate(layers) if hasattr(layer.mlp, "experts"))
        assert Checkpoint.open(path).config.moe_layers == sparse


def test_the_digest_tells_models_apart_by_config_and_tensors(checkpoint_of, tmp_path):
    same = shutil.copytree(checkpoint_of("mixtral"), tmp_path / "same")
    digest = inspect_model(str(same), "auto").digest
    assert digest == inspect_model(str(checkpoint_of("mixtral")), "auto").digest
    change_config(same, rms_norm_eps=1e-4)
    assert inspect_model(str(same), "auto").digest != digest


def test_the_digest_tells_a_fine_tune_from_its_base_and_not_by_its_files(tmp_path):
    base = inspect_model(str(build_checkpoint("mixtral", tmp_path / "base")), "auto").digest
    split = build_checkpoint("mixtral", tmp_path / "split", max_shard_size="200KB")
    assert inspect_model(str(split), "auto").digest == base
    file = tmp_path / "base" / "model.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(file).items()}, file)
    assert inspect_model(str(tmp_path / "base"), "auto").digest != base


def test_a_checkpoint_in_several_files_is_the_same_model(tmp_path):
    path = build_checkpoint("mixtral", tmp_path, max_shard_size="200KB")
    assert len(list(path.glob("*.safetensors"))) > 3
    assert inspect_model(str(path), "auto").experts == 8


# Each entry damages a good checkpoint in its own way.


def change_config(path: Path, **fields) -> None:
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **fields}
    file.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))


def drop_tensor(path: Path, name: str) -> None:
    tensors = load_file(path / "model.safetensors")
    del tensors[name]
    save_file(tensors, path / "model.safetensors")


def store_expert_as(path: Path, dtype: torch.dtype) -> None:
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.0.block_sparse_moe.experts.0.w1.weight"
    tensors[name] = tensors[name].to(dtype)
    save_file(tensors, path / "model.safetensors")


def truncate(path: Path, keep: float) -> None:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])


def write(name: str, content: str | bytes):
    def damage(path: Path) -> None:
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def remove(name: str):
    return lambda path: (path / name).unlink()


def config(**fields):
    return lambda path: change_config(path, **fields)


BAD = {
    "no config.json": (remove("config.json"), "ConfigMissing", "has no config.json"),
    "config not JSON": (write("config.json", "{oops"), "ConfigInvalid", "is not JSON"),
    "config nested without end": (write("config.json", "[" * 100_000), "ConfigInvalid", "is not JSON"),
    "config not text": (write("config.json", b"\xff\xfe\x00"), "ConfigInvalid", "is not JSON"),
    "config a list": (write("config.json", "[1]"), "ConfigInvalid", "holds a list, not an object"),
    "no model_type": (config(model_type=None), "ConfigInvalid", "has no field model_type"),
    "model_type a number": (config(model_type=7), "ConfigInvalid", "model_type is 7; it must be a string"),
    "a dense model": (
        config(model_type="llama", num_local_experts=None),
        "NotMixtureOfExperts",
        "'llama' has no experts; supported are Mixtral",
    ),
    "an unknown family": (
        config(model_type="deepseek_v9", num_local_experts=64),
        "UnsupportedArchitecture",
        r"'deepseek_v9' is not supported; supported are Mixtral \(mixtral\), .*Olmoe",
    ),
    "experts in a text part": (
        config(model_type="future_vl", num_local_experts=None, text_config={"num_experts": 64}),
        "UnsupportedArchitecture",
        "'future_vl' is not supported",
    ),
    "quantized": (
        config(quantization_config={"quant_method": "fp8"}),
        "UnsupportedArchitecture",
        "quantization_config is .*fp8",
    ),
    "other weights named": (
        config(transformers_weights="ema.safetensors"),
        "UnsupportedArchitecture",
        "transformers_weights is 'ema.safetensors'; .* in place of model.safetensors",
    ),
    "layers that differ": (config(per_layer_config={"1": {}}), "UnsupportedArchitecture", "per_layer_config is"),
    "parts replaced": (config(fusion_config={"x": 1}), "UnsupportedArchitecture", "fusion_config is"),
    "an adapter": (
        write("adapter_config.json", "{}"),
        "UnsupportedArchitecture",
        "adapter_config.json is an adapter, which transformers would apply to the weights beside it; merge",
    ),
    "a training run's parts": (
        write("shard-00001-model-00001-of-00002.safetensors", b""),
        "WeightsMissing",
        "has shard-00001-model-00001-of-00002.safetensors.*in place of model.safetensors",
    ),
    "only a variant": (
        lambda path: (path / "model.safetensors").rename(path / "model.fp16.safetensors"),
        "WeightsMissing",
        "model.fp16.safetensors is read only when transformers is asked for that variant",
    ),
    "rope unknown": (
        config(rope_parameters={"rope_type": "spiral", "rope_theta": 1e4}),
        "UnsupportedArchitecture",
        "rope_type in rope_parameters is 'spiral'; supported are default, linear",
    ),
    "rope unknown, older name": (
        config(rope_scaling={"type": "su", "factor": 2.0}),
        "UnsupportedArchitecture",
        "rope_type in rope_scaling is 'su'",
    ),
    "rope by layer": (
        config(rope_parameters={"rope_type": {"a": 1}, "full_attention": {"rope_type": "default"}}),
        "UnsupportedArchitecture",
        "differ from layer to layer",
    ),
    "rope no object": (config(rope_scaling="yarn"), "ConfigInvalid", "rope_scaling is 'yarn'; it must be an object"),
    "tied a word": (
        config(tie_word_embeddings="yes"),
        "ConfigInvalid",
        "tie_word_embeddings is 'yes'; it must be true",
    ),
    "layers without end": (
        config(num_hidden_layers=10**9),
        "ConfigInvalid",
        "num_hidden_layers is 10+; it must be at most",
    ),
    "experts without end": (
        config(num_local_experts=10**9),
        "ConfigInvalid",
        "num_local_experts is 10+; it must be at most",
    ),
    "no head": (
        lambda path: drop_tensor(path, "lm_head.weight"),
        "WeightsMissing",
        "lm_head.weight is in none .*, and tie_word_embeddings in config.json is false or not there",
    ),
    "no embeddings": (
        lambda path: drop_tensor(path, "model.embed_tokens.weight"),
        "WeightsMissing",
        "model.embed_tokens.weight is in none",
    ),
    "a norm missing": (
        lambda path: drop_tensor(path, "model.layers.1.input_layernorm.weight"),
        "WeightsMissing",
        "model.layers.1.input_layernorm.weight is in none",
    ),
    "a gate missing": (
        lambda path: drop_tensor(path, "model.layers.2.block_sparse_moe.gate.weight"),
        "WeightsMissing",
        "model.layers.2.block_sparse_moe.gate.weight is in none",
    ),
    "heads of another model": (
        config(num_key_value_heads=4),
        "ConfigInvalid",
        r"k_proj.weight in .* is \[32, 64\], config.json makes it \[64, 64\]",
    ),
    "odd activation": (config(hidden_act="xielu"), "UnsupportedArchitecture", "hidden_act is 'xielu'"),
    "no experts field": (config(num_local_experts=None), "ConfigInvalid", "has no field num_local_experts"),
    "experts a string": (config(num_local_experts="8"), "ConfigInvalid", "num_local_experts is '8'"),
    "experts negative": (config(num_local_experts=-8), "ConfigInvalid", "num_local_experts is -8"),
    "layers true": (config(num_hidden_layers=True), "ConfigInvalid", "num_hidden_layers is True"),
    "top-k too large": (config(num_experts_per_tok=9), "ConfigInvalid", "num_experts_per_tok is 9; it exceeds the 8"),
    "dtype unknown": (config(dtype="float8_e4m3fn"), "ConfigInvalid", "dtype is 'float8_e4m3fn'; served are float32"),
    "width of another model": (
        config(hidden_size=128),
        "ConfigInvalid",
        r"is \[96, 64\], config.json makes it \[96, 128\]",
    ),
    "no weights": (remove("model.safetensors"), "WeightsMissing", "neither model.safetensors nor .*index.json"),
    "an expert missing": (
        lambda path: drop_tensor(path, "model.layers.3.block_sparse_moe.experts.5.w2.weight"),
        "WeightsMissing",
        r"model.layers.3.block_sparse_moe.experts.5.w2.weight is in none",
    ),
    "more layers than weights": (config(num_hidden_layers=5), "WeightsMissing", "model.layers.4.block_sparse_moe"),
    "experts in float8": (
        lambda path: store_expert_as(path, torch.float8_e4m3fn),
        "UnsupportedArchitecture",
        "is stored as F8_E4M3",
    ),
    "weights cut short": (
        lambda path: truncate(path, 0.7),
        "WeightsTruncated",
        r"has \d+ bytes, its header promises \d+",
    ),
    "header cut short": (lambda path: truncate(path, 0.001), "WeightsTruncated", "its header promises"),
    "weights empty": (write("model.safetensors", b""), "WeightsTruncated", "has 0 bytes"),
    "weights not safetensors": (
        write("model.safetensors", b"PK\x03\x04" + b"x" * 99),
        "WeightsTruncated",
        "copy it again",
    ),
    "header not JSON": (
        write("model.safetensors", (4).to_bytes(8, "little") + b"{{{{"),
        "WeightsTruncated",
        "damaged header",
    ),
    "header nested without end": (
        write("model.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000),
        "WeightsTruncated",
        "damaged header",
    ),
    "no tokenizer": (remove("tokenizer.json"), "TokenizerMissing", "has no tokenizer; it needs tokenizer.json: load"),
}


@pytest.mark.parametrize(("damage", "reason", "message"), BAD.values(), ids=BAD)
def test_bad(checkpoint_of, tmp_path, damage, reason, message):
    path = Path(shutil.copytree(checkpoint_of("mixtral"), tmp_path / "model"))
    damage(path)
    with pytest.raises(ModelError, match=message) as caught:
        inspect_model(str(path), "auto")
    assert caught.value.reason == reason
    assert str(path) in str(caught.value)
    assert caught.value.to_wire().reason == reason


def test_bad_paths(tmp_path):
    for path, message in [(tmp_path / "nowhere", "does not exist on this node"), (Path(__file__), "is a file")]:
        with pytest.raises(ModelError, match=message) as caught:
            inspect_model(str(path), "auto")
        assert caught.value.reason == "PathNotFound"


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/nul\0here"], ids=["too long", "NUL"])
def test_paths_that_no_system_takes(path):
    with pytest.raises(ModelError, match="model path /") as caught:
        inspect_model(path, "auto")
    assert caught.value.reason == "PathNotFound"
    assert len(str(caught.value)) < 400


def test_a_directory_that_may_not_be_entered(tmp_path, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refuse)  # root, as whom tests may run, is refused nothing
    with pytest.raises(ModelError, match="cannot be read: Permission denied; check it") as caught:
        inspect_model(str(tmp_path), "auto")
    assert caught.value.reason == "PathNotFound"


def test_all_layers_dense(checkpoint_of, tmp_path):
    path = Path(shutil.copytree(checkpoint_of("qwen3_moe"), tmp_path / "model"))
    change_config(path, mlp_only_layers=[0, 1, 2, 3])
    with pytest.raises(ModelError, match="make all 4 layers dense") as caught:
        inspect_model(str(path), "auto")
    assert caught.value.reason == "NotMixtureOfExperts"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: next(path.glob("model-00002*")).unlink(), "model-00002-of-.* is missing"),
        (write("model.safetensors.index.json", "{}"), "is damaged"),
        (write("model.safetensors.index.json", "[" * 100_000), "is damaged"),
        (write("model.safetensors.index.json", '{"weight_map": ["a"]}'), "is damaged"),
        (
            write("model.safetensors.index.json", '{"weight_map": {"x": "/etc/../etc/passwd"}}'),
            "has tensor x in /etc/../etc/passwd, which is outside of",
        ),
    ],
)
def test_bad_index(tmp_path, damage, message):
    path = build_checkpoint("mixtral", tmp_path / "model", max_shard_size="200KB")
    damage(path)
    with pytest.raises(ModelError, match=message) as caught:
        inspect_model(str(path), "auto")
    assert caught.value.reason == "WeightsMissing"


def test_a_tensor_in_another_file_than_the_index_says(tmp_path):
    path = build_checkpoint("mixtral", tmp_path, max_shard_size="200KB")
    index = json.loads((path / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra"] = next(iter(index["weight_map"].values()))
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"tensor model.extra is not in .*, where model.safetensors.index.json has it"):
        inspect_model(str(path), "auto")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes_for_weights_are_told_in_words(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    if not path.exists():
        build_checkpoint("mixtral", path)
    (path / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError):
        inspect_model(str(path), "auto")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
_HEADERS = st.dictionaries(
    st.sampled_from(["a", "__metadata__"]),
    st.fixed_dictionaries({}, optional={"dtype": _JSON, "shape": _JSON, "data_offsets": _JSON}) | _JSON,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(_HEADERS)
def test_any_header_is_told_in_words(tmp_path_factory, header):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    if not path.exists():
        build_checkpoint("mixtral", path)
    raw = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw)
    with pytest.raises(ModelError):
        inspect_model(str(path), "auto")
