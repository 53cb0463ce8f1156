"""What a model's other parameters are called and measure is what transformers builds, whatever the configuration."""

import json

import pytest
import torch
from reference import CONFIGS
from transformers import AutoConfig, AutoModelForCausalLM

from moe_serving.checkpoint.config import read_config

FIELDS = {
    "as it is": {},
    "biases": {"attention_bias": True, "qkv_bias": True},
    "no biases": {"attention_bias": False, "qkv_bias": False},
    "a head's own width": {"head_dim": 24},
    "all layers but one dense": {"mlp_only_layers": [0, 1, 2]},
    "all defaults": {"num_key_value_heads": ..., "attention_bias": ..., "qkv_bias": ..., "head_dim": ...},
}
"""Changes of ``config.json``; ``...`` takes a field away."""


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("variant", [name for name in CONFIGS if "window" not in name])
def test_they_are_transformers_own(tmp_path, variant, fields):
    config_class, own = CONFIGS[variant]
    heads = 16 if fields is FIELDS["all defaults"] else 4  # transformers' own default are up to 16 key heads
    common = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": heads, "vocab_size": 320}
    config_class(**common, **own).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    changed = json.loads(file.read_text()) | fields
    if variant == "olmoe":
        changed.pop("head_dim", None)  # its norms take it for hidden_size / num_attention_heads
    file.write_text(json.dumps({name: value for name, value in changed.items() if value is not ...}))
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path)).state_dict()
    wanted = {name: tuple(tensor.shape) for name, tensor in built.items() if ".experts." not in name}
    assert read_config(tmp_path)[0].others == wanted
