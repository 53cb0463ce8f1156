"""Whatever ``from_pretrained`` of transformers loads from a directory is what is served, tensor for tensor."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from driver import complete, greedy, running_engine
from reference import CONFIGS, build_checkpoint, loaded, reference_greedy
from safetensors.torch import load_file, save_file

from moe_serving.checkpoint import ModelError, inspect_model
from moe_serving.checkpoint.reader import ExpertReader
from moe_serving.engine.model import load_attention_model

PROMPT, TOKENS = [3, 14, 15, 9, 26], 8
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Nobody:
    def submit(self, layer, hidden, expert_ids, weights):
        raise NotImplementedError


def assert_served_as_transformers_loads_it(path):
    whole, info = loaded(path, torch.float32)
    assert not info["missing_keys"], "the layout is none that transformers loads"
    held = dict(load_attention_model(path, "float32", "cpu", Nobody()).module.named_parameters())
    wanted = {name: tensor for name, tensor in whole.named_parameters() if ".experts." not in name}
    assert held.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(held[name], wanted[name])] == []
    reader = ExpertReader(path, "float32", "cpu")
    for layer, decoder_layer in enumerate(reader.checkpoint.config.moe_layers):
        experts = whole.model.layers[decoder_layer].mlp.experts
        for expert in range(reader.checkpoint.config.experts):
            own = reader.read(layer, expert)
            assert torch.equal(own.gate_up, experts.gate_up_proj[expert])
            assert torch.equal(own.down, experts.down_proj[expert])
    with running_engine(path) as engine:
        assert complete(engine, [PROMPT], greedy(TOKENS)) == reference_greedy(path, [PROMPT], TOKENS)


def save(path, tensors, file=SINGLE):
    (path / file).parent.mkdir(exist_ok=True)
    save_file(tensors, path / file, metadata={"format": "pt"})


def write_index(path, weight_map):
    (path / INDEX).write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}))


def other(tensors):
    return {name: tensor.flip(0).contiguous() for name, tensor in tensors.items()}


def split(path, files, tensors):
    """``tensors`` in several files with an index, in turn; no single file."""
    (path / SINGLE).unlink()
    parts = {file: {} for file in files}
    for number, name in enumerate(sorted(tensors)):
        parts[files[number % len(files)]][name] = tensors[name]
    for file, part in parts.items():
        save(path, part, file)
    write_index(path, {name: file for file, part in parts.items() for name in part})
    return parts


def stale_index(path, tensors):
    save(path, other(tensors), "model-00001-of-00001.safetensors")
    write_index(path, dict.fromkeys(tensors, "model-00001-of-00001.safetensors"))


def stale_index_without_its_files(path, tensors):
    write_index(path, dict.fromkeys(tensors, "model-00001-of-00002.safetensors"))


def index_that_names_one_tensor_of_each_file(path, tensors):
    parts = split(path, ["a.safetensors", "b.safetensors"], tensors)
    write_index(path, {min(part): file for file, part in parts.items()})


def a_tensor_in_two_files(path, tensors):
    parts = split(path, ["a.safetensors", "b.safetensors"], tensors)
    for mine, theirs in (("a.safetensors", "b.safetensors"), ("b.safetensors", "a.safetensors")):
        save(path, parts[mine] | other(parts[theirs]), mine)


def files_in_folders(path, tensors):
    # As text "deep-x/" comes before "deep/", as folders it does not; and the last file holds what counts.
    parts = split(path, ["deep/a.safetensors", "deep-x/a.safetensors"], tensors)
    save(path, parts["deep-x/a.safetensors"] | other(parts["deep/a.safetensors"]), "deep-x/a.safetensors")
    save(path, other(tensors), "a.safetensors")


def links_into_a_cache(path, tensors):
    blobs = path.parent / "blobs"
    blobs.mkdir()
    for name in (SINGLE, "config.json"):
        shutil.move(path / name, blobs / name.replace(".", ""))
        (path / name).symlink_to(Path(os.pardir) / "blobs" / name.replace(".", ""))


def a_dead_link_beside_an_index(path, tensors):
    split(path, ["a.safetensors", "b.safetensors"], tensors)
    (path / SINGLE).symlink_to(path / "gone")


def pickled_weights_beside(path, tensors):
    torch.save(other(tensors), path / "pytorch_model.bin")


def a_variant_beside(path, tensors):
    save(path, other(tensors), "model.fp16.safetensors")


def code_of_its_own(path, tensors):
    """``from_pretrained`` takes the library's class, as long as it is not told to trust this."""
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_own.Own", "AutoConfig": "modeling_own.OwnConfig"}
    (path / "config.json").write_text(json.dumps(config))
    (path / "modeling_own.py").write_text("raise RuntimeError('this code must not run')")


def unknown_tensors(path, tensors):
    extra = {
        "model.layers.0.self_attn.q_proj.bias": torch.ones(64),
        "model.layers.9.block_sparse_moe.experts.0.w1.weight": torch.ones(96, 64),
        "model.layers.0.block_sparse_moe.experts.0.w1.bias": torch.ones(96),
        "lora.A": torch.ones(2, 2),
    }
    save(path, tensors | extra)


def half_fused(path, tensors):
    for layer in range(4):
        prefix = f"model.layers.{layer}.block_sparse_moe.experts."
        parts = [[tensors.pop(f"{prefix}{e}.{w}.weight") for w in ("w1", "w3")] for e in range(8)]
        tensors[f"model.layers.{layer}.mlp.experts.gate_up_proj"] = torch.stack([torch.cat(part) for part in parts])
    save(path, tensors)


def fused_under_the_older_name(path, tensors):
    half_fused(path, tensors)
    save(path, {name.replace(".mlp.", ".block_sparse_moe."): tensor for name, tensor in tensors.items()})


def newer_names(path, tensors):
    save(path, {name.replace(".block_sparse_moe.", ".mlp."): tensor for name, tensor in tensors.items()})


def prefix_twice(path, tensors):
    save(path, {f"model.{name}": tensor for name, tensor in tensors.items()})


def tie(path):
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))


def a_base_model_with_tied_head(path, tensors):
    tie(path)
    del tensors["lm_head.weight"]
    save(path, {name.removeprefix("model."): tensor for name, tensor in tensors.items()})


def tied_without_head(path, tensors):
    tie(path)
    del tensors["lm_head.weight"]
    save(path, tensors)


def tied_without_embeddings(path, tensors):
    tie(path)
    del tensors["model.embed_tokens.weight"]
    save(path, tensors)


def said_to_be_tied_and_is_not(path, tensors):
    tie(path)


def types_mixed(path, tensors):
    save(path, {name: t.bfloat16() if number % 2 else t for number, (name, t) in enumerate(sorted(tensors.items()))})


LAYOUTS = [
    stale_index, stale_index_without_its_files, index_that_names_one_tensor_of_each_file, a_tensor_in_two_files,
    files_in_folders, links_into_a_cache, a_dead_link_beside_an_index, pickled_weights_beside, a_variant_beside,
    code_of_its_own, unknown_tensors, half_fused, fused_under_the_older_name, newer_names, prefix_twice,
    a_base_model_with_tied_head, tied_without_head, tied_without_embeddings, said_to_be_tied_and_is_not, types_mixed,
]  # fmt: skip


@pytest.fixture
def checkpoint(checkpoint_of, tmp_path):
    path = Path(shutil.copytree(checkpoint_of("mixtral"), tmp_path / "model"))
    return path, load_file(path / SINGLE)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_a_layout(checkpoint, layout):
    layout(*checkpoint)
    assert_served_as_transformers_loads_it(checkpoint[0])


@pytest.mark.parametrize("variant", CONFIGS)
def test_fused_experts(tmp_path, variant):
    path = build_checkpoint(variant, tmp_path, fused=True)
    assert any(name.endswith(".experts.gate_up_proj") for name in load_file(path / SINGLE))
    assert_served_as_transformers_loads_it(path)


def fused_and_one_by_one(path, tensors):
    save(path, tensors | {"model.layers.2.mlp.experts.down_proj": torch.zeros(8, 64, 96)})


def with_and_without_prefix(path, tensors):
    save(path, tensors | {"norm.weight": torch.zeros(64)})


def fused_with_an_expert_too_few(path, tensors):
    half_fused(path, tensors)
    name = "model.layers.1.mlp.experts.gate_up_proj"
    save(path, tensors | {name: tensors[name][:7].contiguous()})


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (
            fused_and_one_by_one,
            r"mlp.experts.down_proj in .* and model.layers.2.block_sparse_moe.experts.0.w2.weight in",
        ),
        (with_and_without_prefix, r"tensors model.norm.weight in .* and norm.weight in .* are both model.norm.weight"),
        (fused_with_an_expert_too_few, r"gate_up_proj in .* is \[7, 192, 64\], config.json makes it \[8, 192, 64\]"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_ambiguous_is_refused_with_both_names(checkpoint, layout, message):
    layout(*checkpoint)
    with pytest.raises(ModelError, match=message):
        inspect_model(str(checkpoint[0]), "auto")


def test_a_tensor_missing_from_the_file_that_is_read_names_the_index_that_is_not(checkpoint):
    path, tensors = checkpoint
    stale_index(path, tensors)
    del tensors["model.norm.weight"]
    save(path, tensors)
    with pytest.raises(
        ModelError, match=r"that are read \(model.safetensors; model.safetensors.index.json beside it is"
    ):
        inspect_model(str(path), "auto")


def test_a_window_that_transformers_implementations_disagree_about(tmp_path):
    path = build_checkpoint("olmoe", tmp_path, sliding_window=8)
    with pytest.raises(ModelError, match="sliding_window is 8; Olmoe has none"):
        inspect_model(str(path), "auto")
