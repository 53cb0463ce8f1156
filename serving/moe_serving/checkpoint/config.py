"""``config.json``: read, checked, and reduced to what serving experts needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_serving.checkpoint.context import longest_context
from moe_serving.checkpoint.errors import ModelError
from moe_serving.checkpoint.families import (
    ACTIVATIONS,
    EXPERT_COUNT_FIELDS,
    FAMILIES,
    Family,
    supported_architectures,
)

_MAX_CONFIG_BYTES = 16 << 20


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
    return _parse(_Fields(file, content)), raw


def _parse(fields: _Fields) -> MoEConfig:
    family = _family(fields)
    experts = fields.positive(family.experts_field, *EXPERT_COUNT_FIELDS)
    top_k = fields.positive(family.top_k_field)
    if top_k > experts:
        raise fields.invalid(family.top_k_field, top_k, f"it exceeds the {experts} experts of a layer")
    activation = fields.text("hidden_act", default="silu")
    if activation not in ACTIVATIONS:
        raise ModelError(
            "UnsupportedArchitecture",
            f"{fields.file}: hidden_act is {activation!r}; experts can use {', '.join(ACTIVATIONS)}",
        )
    return MoEConfig(
        family=family,
        moe_layers=_moe_layers(family, fields),
        experts=experts,
        top_k=top_k,
        hidden=fields.positive("hidden_size"),
        intermediate=fields.positive(family.intermediate_field),
        activation=activation,
        dtype=fields.text("dtype", "torch_dtype", default="") or None,
        max_context=longest_context(fields.content, fields.positive("max_position_embeddings")),
    )


def _family(fields: _Fields) -> Family:
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
    if fields.content.get("quantization_config"):
        method = fields.content["quantization_config"]
        raise ModelError(
            "UnsupportedArchitecture",
            f"{fields.file}: quantization_config {method!r:.200} is not supported; use a checkpoint in float32, "
            "bfloat16 or float16",
        )
    return family


def _moe_layers(family: Family, fields: _Fields) -> tuple[int, ...]:
    """The rule of transformers' ``Qwen2MoeDecoderLayer``: dense are the listed layers and those off the step."""
    layers = range(fields.positive("num_hidden_layers"))
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


@dataclass(frozen=True, slots=True)
class _Fields:
    """Typed access to the fields of a configuration; what is wrong is told with file, field and value."""

    file: Path
    content: dict[str, Any]

    def positive(self, *names: str, default: int | None = None) -> int:
        """The first of the named fields that is there; a whole number above 0."""
        for name in names:
            value = self.content.get(name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise self.invalid(name, value, "it must be a whole number above 0")
            return value
        if default is None:
            raise self._missing(names[0])
        return default

    def text(self, *names: str, default: str | None = None) -> str:
        for name in names:
            value = self.content.get(name)
            if value is None:
                continue
            if not isinstance(value, str):
                raise self.invalid(name, value, "it must be a string")
            return value
        if default is None:
            raise self._missing(names[0])
        return default

    def count_experts(self) -> int:
        """Experts per layer that the configuration, or its text part, mentions under any usual name; 0 if none."""
        text = self.content.get("text_config")
        places = [self.content, text if isinstance(text, dict) else {}]
        counts = [place.get(name) for place in places for name in EXPERT_COUNT_FIELDS]
        return max((count for count in counts if isinstance(count, int)), default=0)

    def invalid(self, name: str, value: object, why: str) -> ModelError:
        return ModelError("ConfigInvalid", f"{self.file}: {name} is {value!r:.200}; {why}")

    def _missing(self, name: str) -> ModelError:
        return ModelError("ConfigInvalid", f"{self.file} has no field {name}; is it complete?")
