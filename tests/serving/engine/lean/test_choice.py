"""Which models have a lean step: a table of configurations, and a reason for each that has none."""

import pytest

from moe_serving.engine.lean.choice import DEVICES, FAMILIES, UNTRIED, why_general

KNOWN = {
    "model_type": "qwen3_moe",
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "attention_bias": False,
    "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
    "clip_qkv": None,
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"attention_bias": True},
        {"sliding_window": 128},
        {"num_key_value_heads": 32},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "partial_rotary_factor": 1.0}},
        {"rope_parameters": None},
    ],
    ids=str,
)
@pytest.mark.parametrize("device", DEVICES)
def test_lean(family, dtype, fields, device):
    assert why_general({**KNOWN, "model_type": family, **fields}, dtype, device, device in UNTRIED) is None


@pytest.mark.parametrize(
    ("fields", "dtype", "device", "reason"),
    [
        ({}, "float32", "mps", "its device is mps"),
        ({}, "float32", "cuda", "have not been run on one yet; MOE_GPU_KERNELS=1 in the environment"),
        ({}, "float16", "cpu", "served in float16"),
        ({"model_type": "gpt_oss"}, "float32", "cpu", "its model_type is gpt_oss, and known are mixtral, olmoe"),
        ({"model_type": None}, "float32", "cpu", "its model_type is None"),
        ({"clip_qkv": 8.0}, "float32", "cpu", "has clip_qkv: 8.0"),
        ({"final_logit_softcapping": 30.0}, "float32", "cpu", "has final_logit_softcapping: 30.0"),
        ({"attn_logit_softcapping": 50.0}, "float32", "cpu", "has attn_logit_softcapping: 50.0"),
        ({"attention_sinks": True}, "float32", "cpu", "has attention_sinks: True"),
        ({"quantization_config": {"bits": 8}}, "float32", "cpu", "has quantization_config: {'bits': 8}"),
        ({"layer_types": ["full_attention", "chunked_attention"]}, "float32", "cpu", "name 'chunked_attention'"),
        ({"rope_parameters": {"rope_type": "proportional"}}, "float32", "cpu", "rope_type is 'proportional'"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "float32", "cpu",
            "partial_rotary_factor is 0.5",
        ),
        ({"num_attention_heads": 6, "num_key_value_heads": 4}, "float32", "cpu", "6 query heads are not a multiple"),
    ],
)  # fmt: skip
def test_transformers_own_modules(fields, dtype, device, reason):
    assert reason in str(why_general({**KNOWN, **fields}, dtype, device))
