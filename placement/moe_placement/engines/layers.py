"""Which layers of a model are MoE layers: other engines count dense layers as well, this package does not.

Read from the model's ``config.json``, by the rules that the models' own code in transformers 5.23 and SGLang has. A
config that has none of the fields known here says nothing: whoever asks then has to name the layers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_placement.checks import whole, wholes
from moe_placement.errors import InvalidPlacementError

MOST_LAYERS = 1 << 16

_ALL_ARE_MOE = (
    "dbrx", "deepseek_v4", "flex_olmo", "gpt_oss", "granitemoe", "granitemoeshared", "jetmoe", "minimax", "minimax_m2",
    "mixtral", "olmoe", "phimoe", "qwen3_5_moe", "qwen3_5_moe_text",
)  # fmt: skip
"""Values of ``model_type`` whose code knows no dense layer."""


@dataclass(frozen=True, slots=True)
class ModelLayers:
    """The layers of a model, numbered as the model does.

    Attributes:
        moe: of the MoE layers, in the order of a placement's or a trace's layers.
        total: dense ones included.
    """

    moe: tuple[int, ...]
    total: int

    def __post_init__(self) -> None:
        error = InvalidPlacementError
        numbers = wholes(error, "moe_layers", self.moe, most=MOST_LAYERS - 1)
        total = whole(error, "model_layers", self.total, most=MOST_LAYERS)
        if not numbers or len(set(numbers)) != len(numbers) or max(numbers) >= total:
            raise error(f"moe_layers must name different layers below {total}, at least one, got {list(numbers)}")
        object.__setattr__(self, "moe", numbers)


def read_model_layers(path: str | Path) -> ModelLayers:
    """The layers of a model from its ``config.json``.

    Raises:
        InvalidPlacementError: no such file, no such JSON, or a config that does not say which layers are MoE layers.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidPlacementError(f"{path}: no config.json of a model ({error})") from error
    if not isinstance(content, dict):
        raise InvalidPlacementError(f"{path}: no config.json of a model (it holds a {type(content).__name__})")
    return model_layers(content, str(path))


def model_layers(config: Mapping[str, Any], source: str = "config") -> ModelLayers:
    """The same from its content; that of the language model where it is one of several.

    Raises:
        InvalidPlacementError: it does not say which layers are MoE layers; the message begins with ``source``.
    """
    inner = config.get("text_config")
    if "num_hidden_layers" not in config and isinstance(inner, dict):
        config = inner
    total = _number(config, "num_hidden_layers", source, least=1)
    is_moe = _rule(config, total, source)
    if is_moe is None:
        raise InvalidPlacementError(
            f"{source} does not say which of the {total} layers are MoE layers (model_type is "
            f"{str(config.get('model_type'))[:40]!r}): name them"
        )
    moe = tuple(layer for layer in range(total) if is_moe(layer))
    if not moe:
        raise InvalidPlacementError(f"{source}: all {total} layers are dense")
    return ModelLayers(moe, total)


def _rule(config: Mapping[str, Any], total: int, source: str) -> Callable[[int], bool] | None:
    """Whether a layer is an MoE layer; None where the config does not say."""

    def number(name: str, default: int, least: int = 0) -> int:
        return default if config.get(name) is None else _number(config, name, source, least)

    if config.get("mlp_layer_types") is not None:
        kinds = _one_each(config, "mlp_layer_types", total, source)
        return lambda layer: kinds[layer] != "dense"
    if isinstance(config.get("moe_layer_freq"), list):
        flags = _one_each(config, "moe_layer_freq", total, source)
        return lambda layer: bool(flags[layer])
    if config.get("first_k_dense_replace") is not None:
        first, every = number("first_k_dense_replace", 0), number("moe_layer_freq", 1, least=1)
        return lambda layer: layer >= first and layer % every == 0
    if config.get("moe_layers") is not None:
        named = _numbers(config, "moe_layers", source)
        return lambda layer: layer in named
    if config.get("interleave_moe_layer_step") is not None:
        step = number("interleave_moe_layer_step", 1, least=1)
        return lambda layer: (layer + 1) % step == 0
    if config.get("mlp_only_layers") is not None or config.get("decoder_sparse_step") is not None:
        dense, step = _numbers(config, "mlp_only_layers", source), number("decoder_sparse_step", 1, least=1)
        return lambda layer: layer not in dense and (layer + 1) % step == 0
    if config.get("moe_layer_interval") is not None or config.get("moe_layer_start_index") is not None:
        every, first = number("moe_layer_interval", 1, least=1), number("moe_layer_start_index", 0)
        last = number("moe_layer_end_index", -1, least=-1)
        last = total - 1 if last == -1 else last
        return lambda layer: (layer + 1) % every == 0 and first <= layer <= last
    if config.get("expert_layer_period") is not None:
        every, offset = number("expert_layer_period", 1, least=1), number("expert_layer_offset", 0)
        return lambda layer: layer % every == offset
    if config.get("num_dense_layers") is not None:
        first = number("num_dense_layers", 0)
        return lambda layer: layer >= first
    return (lambda _: True) if config.get("model_type") in _ALL_ARE_MOE else None


def _number(config: Mapping[str, Any], name: str, source: str, least: int = 0) -> int:
    return whole(InvalidPlacementError, f"{source}: {name}", config.get(name), least, MOST_LAYERS)


def _numbers(config: Mapping[str, Any], name: str, source: str) -> frozenset[int]:
    return frozenset(wholes(InvalidPlacementError, f"{source}: {name}", config.get(name) or [], most=MOST_LAYERS))


def _one_each(config: Mapping[str, Any], name: str, total: int, source: str) -> list[Any]:
    """A list with an entry for each layer."""
    values = config[name]
    if not isinstance(values, list) or len(values) < total:
        raise InvalidPlacementError(f"{source}: {name} must name all {total} layers, got {str(values)[:80]}")
    return values
