"""The attention process's model: everything but experts, from a local path, complete or not at all."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from reference import CONFIGS, build_checkpoint, build_tokenizer, reference_model
from safetensors.torch import load_file, save_file
from transformers.models.mixtral import modeling_mixtral
from transformers.models.mixtral.modeling_mixtral import MixtralAttention, MixtralExperts

from moe_serving.checkpoint import Checkpoint, ModelError
from moe_serving.engine.ends import end_token_ids
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.model import load_attention_model


@pytest.mark.parametrize("variant", CONFIGS)
def test_it_holds_all_parameters_but_the_experts(checkpoint_of, variant):
    path = checkpoint_of(variant)
    checkpoint = Checkpoint.open(path)
    whole = {name: tensor for name, tensor in reference_model(path).named_parameters() if ".experts." not in name}
    model = load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    held = dict(model.module.named_parameters())
    assert held.keys() == whole.keys()
    assert all(torch.equal(held[name], whole[name]) for name in whole)
    stored = sum(entry.end - entry.begin for entry in checkpoint.tensors.values())
    facts = checkpoint.facts("auto")
    experts = facts.layers * facts.experts * facts.bytes_per_expert
    assert sum(p.numel() * p.element_size() for p in held.values()) == stored - experts


def test_the_experts_class_is_whole_again_afterwards(checkpoint_of):
    path = checkpoint_of("mixtral")
    load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    config = reference_model(path).config
    assert {name for name, _ in MixtralExperts(config).named_parameters()} == {"gate_up_proj", "down_proj"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_served_dtype(checkpoint_of, dtype):
    path = checkpoint_of("mixtral")
    model = load_attention_model(path, dtype, "cpu", LocalExperts(path, dtype, "cpu"))
    assert {parameter.dtype for parameter in model.module.parameters()} == {getattr(torch, dtype)}


TURNS = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}"
    "{% if m.role == 'assistant' %}\n{{ '<turn>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("config", "generation", "eos", "template", "ends"),
    [
        (2, None, None, None, {2}),
        ([2, 9], None, None, None, {2, 9}),
        (2, {"eos_token_id": [7, 8]}, None, None, {2, 7, 8}),
        (None, {"eos_token_id": 7}, "<eot>", None, {7, 320}),
        (2, {"do_sample": True}, "</s>", TURNS, {2, 321}),
        (None, None, "</s>", TURNS.replace("assistant", "nobody"), {2}),
        (None, None, None, "{{ raise_exception('only one message') }}", set()),
        (None, None, None, "{{ messages[0].content", set()),
        (-1, {"eos_token_id": [None, True, "x"]}, None, None, set()),
    ],
    ids=str,
)
def test_end_tokens_come_from_wherever_the_files_name_them(tmp_path, config, generation, eos, template, ends):
    tokenizer = build_tokenizer()
    tokenizer.eos_token = None
    tokenizer.add_special_tokens({"additional_special_tokens": ["<eot>", "<turn>"]})
    if eos:
        tokenizer.eos_token = eos
    tokenizer.chat_template = template
    tokenizer.save_pretrained(tmp_path)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert end_token_ids(tmp_path, SimpleNamespace(eos_token_id=config)) == ends


def test_end_tokens_of_a_checkpoint(tmp_path):
    path = build_checkpoint("mixtral", tmp_path)
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    experts = LocalExperts(path, "auto", "cpu")
    assert load_attention_model(path, "auto", "cpu", experts).end_token_ids == {2, 7, 8}
    (path / "generation_config.json").write_text("{")
    with pytest.raises(ModelError, match=r"generation_config.json cannot be read as JSON"):
        load_attention_model(path, "auto", "cpu", experts)


def test_a_missing_tensor_is_an_error_not_a_random_number(tmp_path):
    path = edited(tmp_path, drop="model.layers.2.self_attn.q_proj.weight")
    with pytest.raises(ModelError, match=r"tensor model.layers.2.self_attn.q_proj.weight is in none") as caught:
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    assert caught.value.reason == "WeightsMissing"


def test_a_tensor_of_another_shape_is_an_error(tmp_path):
    path = edited(tmp_path, reshape="model.layers.1.self_attn.k_proj.weight")
    with pytest.raises(
        ModelError, match=r"k_proj.weight in .* is \[64, 32\], config.json makes it \[32, 64\]"
    ) as caught:
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    assert caught.value.reason == "ConfigInvalid"


def test_a_config_transformers_refuses_is_an_error(tmp_path):
    path = build_checkpoint("mixtral", tmp_path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "num_attention_heads": "four"}))
    with pytest.raises(ModelError, match="num_attention_heads") as caught:
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    assert caught.value.reason == "ConfigInvalid"


def edited(path, drop="", reshape=""):
    build_checkpoint("mixtral", path)
    tensors = load_file(path / "model.safetensors")
    tensors.pop(drop, None)
    if reshape:
        tensors[reshape] = tensors[reshape].T.contiguous()
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return path


_MEASURE = """
import sys, psutil
from moe_serving.engine.model import load_attention_model
class Nobody:
    def submit(self, layer, hidden, expert_ids, weights): raise NotImplementedError
small, large = sys.argv[1:]
load_attention_model(small, "auto", "cpu", Nobody())
before = psutil.Process().memory_full_info().uss
model = load_attention_model(large, "auto", "cpu", Nobody())
print(psutil.Process().memory_full_info().uss - before)
"""


def test_private_memory_has_no_room_for_experts(checkpoint_of, tmp_path):
    large = build_checkpoint(
        "mixtral", tmp_path, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_local_experts=16
    )
    facts = Checkpoint.open(large).facts("auto")
    experts = facts.layers * facts.experts * facts.bytes_per_expert
    assert experts > 200e6
    command = [sys.executable, "-c", _MEASURE, str(checkpoint_of("mixtral")), str(large)]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)
    rest = sum(entry.end - entry.begin for entry in Checkpoint.open(large).tensors.values()) - experts
    assert grown < rest + 0.1 * experts, f"{grown / 1e6:.0f} MB for {rest / 1e6:.0f} MB of weights"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"s_aux": torch.zeros(4)}, "s_aux"),
        ({"softcap": 30.0, "position_bias": torch.zeros(1)}, "position_bias, softcap"),
    ],
)
def test_what_a_family_asks_of_attention_and_would_not_get_is_an_error_at_load(checkpoint_of, arguments, named):
    class Asking(MixtralAttention):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **{**kwargs, **arguments})

    def build(*args, **kwargs):
        return Asking(*args, **kwargs)

    path = checkpoint_of("mixtral")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(modeling_mixtral, "MixtralAttention", build)
        with pytest.raises(ModelError, match=f"Asking of transformers asks its attention for {named}, which") as caught:
            load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    assert caught.value.reason == "UnsupportedArchitecture"


def test_keywords_without_a_value_ask_for_nothing(checkpoint_of):
    with pytest.MonkeyPatch.context() as patched:
        original = MixtralAttention.forward
        patched.setattr(MixtralAttention, "forward", lambda self, *a, **k: original(self, *a, s_aux=None, **k))
        path = checkpoint_of("mixtral")
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))


def test_a_configuration_that_fails_only_in_a_step_is_told_at_load(tmp_path):
    path = build_checkpoint("qwen2_moe", tmp_path)
    config = json.loads((path / "config.json").read_text())
    layer_types = ["full_attention", "chunked_attention", "full_attention", "full_attention"]
    (path / "config.json").write_text(json.dumps({**config, "layer_types": layer_types}))
    with pytest.raises(ModelError, match=r"config.json: .*chunked_attention") as caught:
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))
    assert caught.value.reason in ("UnsupportedArchitecture", "ConfigInvalid")


def test_a_configuration_that_transformers_cannot_build_is_told_in_words(tmp_path):
    path = build_checkpoint("mixtral", tmp_path)
    config = json.loads((path / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"config.json: transformers cannot build the model of it: TypeError"):
        load_attention_model(path, "auto", "cpu", LocalExperts(path, "auto", "cpu"))


def test_attention_kernels_that_are_prepared_for_each_length_are_excluded(checkpoint_of):
    """torch's own switch, which it asks on any device; how long preparing takes can be seen on a GPU only."""
    torch.backends.cuda.enable_cudnn_sdp(True)
    path = checkpoint_of("mixtral")
    load_attention_model(path, "bfloat16", "cpu", LocalExperts(path, "bfloat16", "cpu"))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.math_sdp_enabled()
