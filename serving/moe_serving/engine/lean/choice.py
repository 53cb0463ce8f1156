"""Whether a model's steps can be lean: known are a few families, and of their configurations what stands here. Pure.

What is not known is computed by transformers' modules. So nothing is left out, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from moe_serving.checkpoint.rope import ROPE_TYPES

FAMILIES = ("mixtral", "olmoe", "qwen2_moe", "qwen3_moe")
"""``model_type`` of those whose layers are: norm, attention, norm, a dense network or experts; each with a residual."""
DTYPES = ("float32", "bfloat16")
DEVICES = ("cpu", "cuda")
UNTRIED = ("cuda",)
"""Those of ``DEVICES`` that no kernel has been run on yet: a step is lean there only where somebody asks for it."""
TRY = "MOE_GPU_KERNELS"
"""Environment variable of attention's process that does, with the value 1."""

_LAYERS = ("full_attention", "sliding_attention")
_UNKNOWN = (
    "attention_chunk_size",
    "attention_sinks",
    "attn_logit_softcapping",
    "clip_qkv",
    "final_logit_softcapping",
    "logit_scale",
    "quantization_config",
    "residual_multiplier",
)
"""Fields that ask for arithmetic which a lean step does not have."""


def why_general(config: Mapping[str, Any], dtype: str, device: str, tries: bool = False) -> str | None:
    """Why transformers' modules must compute this model; None where a step can be lean.

    Args:
        config: as transformers completes it, every field with its value.
        dtype: in which it is served, as torch names it.
        device: its type.
        tries: whether somebody asks for kernels that have not been run on it yet.
    """
    return next(_reasons(config, dtype, device, tries), None)


def _reasons(config: Mapping[str, Any], dtype: str, device: str, tries: bool) -> Iterator[str]:
    if device not in DEVICES:
        yield f"its device is {device}, and there are kernels for {', '.join(DEVICES)} only"
    if device in UNTRIED and not tries:
        yield f"kernels for {device} have not been run on one yet; {TRY}=1 in the environment of attention tries them"
    if dtype not in DTYPES:
        yield f"it is served in {dtype}, and there are kernels for {' and '.join(DTYPES)} only"
    if config.get("model_type") not in FAMILIES:
        yield f"its model_type is {config.get('model_type')}, and known are {', '.join(FAMILIES)}"
    for name in _UNKNOWN:
        if config.get(name) is not None:
            yield f"its configuration has {name}: {config[name]!r:.100}"
    for kind in config.get("layer_types") or ():
        if kind not in _LAYERS:
            yield f"its layer_types name {kind!r:.100}, and known are {', '.join(_LAYERS)}"
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") not in ROPE_TYPES:
        yield f"its rope_type is {rope.get('rope_type')!r:.100}, and known are {', '.join(ROPE_TYPES)}"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        yield f"its partial_rotary_factor is {rope['partial_rotary_factor']!r:.100}: a part of each head is not rotated"
    heads, shared = config.get("num_attention_heads", 0), config.get("num_key_value_heads") or 1
    if heads % shared:
        yield f"its {heads} query heads are not a multiple of its {shared} heads of keys and values"
