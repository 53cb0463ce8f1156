"""``config.json``: read, checked, and reduced to what serving experts needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from moe_contract.sizes import MOST_EXPERTS, MOST_LAYERS
from moe_serving.checkpoint.context import longest_context
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.families import (
    ACTIVATIONS,
    EXPERT_COUNT_FIELDS,
    FAMILIES,
    Family,
    supported_architectures,
)
from moe_serving.checkpoint.fields import ConfigFields
from moe_serving.checkpoint.parameters import Shape, Sizes, other_parameters
from moe_serving.checkpoint.rope import check_rope

_MAX_CONFIG_BYTES = 16 << 20
_NOT_FOLLOWED = {
    "quantization_config": "use a checkpoint in float32, bfloat16 or float16",
    "transformers_weights": "transformers reads weights from it in place of model.safetensors; rename the file it "
    "names, and take the field away",
    "per_layer_config": "layers that differ from each other are not supported",
    "fusion_config": "take it away: it replaces parts of the model",
}
"""Fields that transformers follows, and what to do."""


@dataclass(frozen=True, slots=True)
class MoEConfig:
    """The part of a model's configuration that placement and shards depend on.

    Attributes:
        moe_layers: decoder layer of each MoE layer, ascending; a MoE layer's own number is its position here.
        hidden: width of a token's row, H.
        intermediate: width inside one expert, I.
        activation: between gate and up projection.
        dtype: the checkpoint's own, None when the configuration does not say.
        max_context: longest sequence in tokens.
        others: shapes of all parameters that belong to no expert, by transformers' names.
        tied: the head is the embeddings, unless both are stored.
    """

    family: Family
    moe_layers: tuple[int, ...]
    experts: int
    top_k: int
    hidden: int
    intermediate: int
    activation: str
    dtype: str | None
    max_context: int
    others: Mapping[str, Shape]
    tied: bool


def read_config(path: Path) -> tuple[MoEConfig, bytes]:
    """The checked configuration of the checkpoint at ``path`` and the raw bytes of ``config.json``.

    Raises:
        ModelError: ConfigMissing, ConfigInvalid, NotMixtureOfExperts or UnsupportedArchitecture.
    """
    file = path / "config.json"
    try:
        if file.stat().st_size > _MAX_CONFIG_BYTES:
            raise ModelError("ConfigInvalid", f"{file} is larger than {_MAX_CONFIG_BYTES >> 20} MiB; is it a config?")
        raw = file.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            "ConfigMissing", f"{path} has no config.json; give the directory of a checkpoint in transformers' format"
        ) from None
    except OSError as error:
        raise ModelError("ConfigMissing", f"{file} cannot be read: {error.strerror}; check its permissions") from error
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ModelError("ConfigInvalid", f"{file} is not JSON: {error}; copy the checkpoint again") from None
    if not isinstance(content, dict):
        raise ModelError("ConfigInvalid", f"{file} holds a {type(content).__name__}, not an object")
    return _parse(ConfigFields(file, content)), raw


def _parse(fields: ConfigFields) -> MoEConfig:
    family = _family(fields)
    _refuse_what_is_not_followed(family, fields)
    check_rope(fields)
    experts = fields.positive(family.experts_field, *EXPERT_COUNT_FIELDS, at_most=MOST_EXPERTS)
    top_k = fields.positive(family.top_k_field)
    if top_k > experts:
        raise fields.invalid(family.top_k_field, top_k, f"it exceeds the {experts} experts of a layer")
    activation = fields.text("hidden_act", default="silu")
    if activation not in ACTIVATIONS:
        raise fields.unsupported("hidden_act", f"experts can use {', '.join(ACTIVATIONS)}")
    moe_layers = _moe_layers(family, fields)
    hidden = fields.positive("hidden_size")
    return MoEConfig(
        family=family,
        moe_layers=moe_layers,
        experts=experts,
        top_k=top_k,
        hidden=hidden,
        intermediate=fields.positive(family.intermediate_field),
        activation=activation,
        dtype=fields.text("dtype", "torch_dtype", default="") or None,
        max_context=longest_context(fields.content, fields.positive("max_position_embeddings")),
        others=other_parameters(family, _sizes(family, fields, moe_layers, experts, hidden)),
        tied=fields.flag("tie_word_embeddings", default=False),
    )


def _sizes(family: Family, fields: ConfigFields, moe_layers: tuple[int, ...], experts: int, hidden: int) -> Sizes:
    layers = fields.positive("num_hidden_layers")
    heads = fields.positive("num_attention_heads")
    fewer = family.key_value_heads if "num_key_value_heads" not in fields.content else None
    return Sizes(
        vocabulary=fields.positive("vocab_size"),
        layers=layers,
        moe_layers=moe_layers,
        experts=experts,
        hidden=hidden,
        heads=heads,
        key_value_heads=fields.positive("num_key_value_heads", default=fewer or heads),
        head_dim=fields.positive("head_dim", default=max(1, hidden // heads)),
        dense=fields.positive("intermediate_size") if len(moe_layers) < layers else 0,
        shared=fields.positive("shared_expert_intermediate_size") if family.has_shared_expert else 0,
        bias=family.bias_field is not None and fields.flag(family.bias_field, family.bias_default),
    )


def _refuse_what_is_not_followed(family: Family, fields: ConfigFields) -> None:
    """What ``from_pretrained`` would apply without a word, and other weights or other arithmetic would come of."""
    for name, why in _NOT_FOLLOWED.items():
        if fields.content.get(name):
            raise fields.unsupported(name, why)
    if fields.content.get("sliding_window") and not family.has_window:
        raise fields.unsupported(
            "sliding_window",
            f"{family.architecture} has none: with it transformers' implementations of attention differ",
        )


def _family(fields: ConfigFields) -> Family:
    model_type = fields.text("model_type")
    family = FAMILIES.get(model_type)
    if family is None and fields.count_experts() < 2:
        raise ModelError(
            "NotMixtureOfExperts",
            f"{fields.file}: model_type {model_type!r} has no experts; supported are {supported_architectures()}",
        )
    if family is None:
        raise ModelError(
            "UnsupportedArchitecture",
            f"{fields.file}: model_type {model_type!r} is not supported; supported are {supported_architectures()}",
        )
    return family


def _moe_layers(family: Family, fields: ConfigFields) -> tuple[int, ...]:
    """The rule of transformers' ``Qwen2MoeDecoderLayer``: dense are the listed layers and those off the step."""
    layers = range(fields.positive("num_hidden_layers", at_most=MOST_LAYERS))
    if not family.has_dense_layers:
        return tuple(layers)
    dense = fields.content.get("mlp_only_layers") or []
    if not isinstance(dense, list):
        raise fields.invalid("mlp_only_layers", dense, "it must be a list of layer numbers")
    step = fields.positive("decoder_sparse_step", default=1)
    sparse = tuple(layer for layer in layers if layer not in dense and (layer + 1) % step == 0)
    if not sparse:
        raise ModelError(
            "NotMixtureOfExperts",
            f"{fields.file}: mlp_only_layers and decoder_sparse_step make all {len(layers)} layers dense",
        )
    return sparse
