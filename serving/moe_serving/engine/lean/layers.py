"""The weights of a lean step, taken out of transformers' modules: what families differ in is data here.

Projections of queries, keys and values become one matrix, of which the modules' own are views from then on: both paths
compute with the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from moe_serving.engine.lean.kernels import NO_NORM, NORM_OF_HEAD, NORM_OF_ROW

Seen = Callable[[Tensor], Any]
"""See ``table.Kernels``."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class Attention:
    """Attributes:
    packed, packed_bias: ``[H, (N + 2 M) D]``, to be multiplied from the right; ``[(N + 2 M) D]``.
    output, output_bias: ``[N D, H]``; ``[H]``.
    norm_kind, norm_weight, norm_epsilon: of queries and keys, as ``kernels.place`` takes them.
    scaling: of scores.
    window: how many tokens one sees, itself included; 0 for all.
    """

    packed: Tensor
    packed_bias: Tensor | None
    output: Tensor
    output_bias: Tensor | None
    norm_kind: int
    norm_weight: Any
    norm_epsilon: np.float32
    scaling: np.float32
    window: int


@dataclass(frozen=True, slots=True)
class Gate:
    """Attributes:
    layer: number of the MoE layer.
    weight: ``[H, E]``, to be multiplied from the right.
    renormalise: weights of a token sum up to 1.
    """

    layer: int
    weight: Tensor
    top_k: int
    renormalise: bool


@dataclass(frozen=True, slots=True)
class Layer:
    """Attributes:
    attention_norm, feed_forward_norm: weights ``[H]`` as kernels see them.
    gate: of a MoE layer; None in a dense one.
    beside: what is added beside experts: a dense network or a shared expert, ``[T, H]`` → ``[T, H]``.
    """

    attention_norm: Any
    attention: Attention
    feed_forward_norm: Any
    gate: Gate | None
    beside: Callable[[Tensor], Tensor] | None


def take_layers(model: Any, experts_class: type[nn.Module], windows: Mapping[int, int], seen: Seen) -> list[Layer]:
    """Of ``model``, a causal language model of transformers of one of ``choice.FAMILIES``.

    Args:
        windows: of each layer, see ``Attention.window``.
        seen: what kernels take in a tensor's place.
    """
    layers: list[Layer] = []
    gates = 0
    for number, module in enumerate(model.model.layers):
        sparse = isinstance(getattr(module.mlp, "experts", None), experts_class)
        layers.append(
            Layer(
                attention_norm=seen(module.input_layernorm.weight.detach()),
                attention=_attention(module.self_attn, windows[number], seen),
                feed_forward_norm=seen(module.post_attention_layernorm.weight.detach()),
                gate=_gate(module.mlp.gate, gates) if sparse else None,
                beside=_shared_expert(module.mlp) if sparse else module.mlp,
            )
        )
        gates += sparse
    return layers


def _attention(module: Any, window: int, seen: Seen) -> Attention:
    projections = [getattr(module, name) for name in _PROJECTIONS]
    packed = _fused(projections, "weight")
    biased = projections[0].bias is not None
    kind, weight, epsilon = _norms(module)
    return Attention(
        packed=packed.t(),
        packed_bias=_fused(projections, "bias") if biased else None,
        output=module.o_proj.weight.detach().t(),
        output_bias=None if module.o_proj.bias is None else module.o_proj.bias.detach(),
        norm_kind=kind,
        norm_weight=seen(weight),
        norm_epsilon=np.float32(epsilon),
        scaling=np.float32(module.scaling),
        window=window,
    )


def _fused(projections: list[Any], name: str) -> Tensor:
    """One tensor of those ``name`` of all, which become views of it."""
    parts = [getattr(projection, name).detach() for projection in projections]
    fused = torch.cat(parts)
    for projection, part in zip(projections, torch.split(fused, [len(part) for part in parts]), strict=True):
        getattr(projection, name).data = part
    return fused


def _norms(module: Any) -> tuple[int, Tensor, float]:
    """Kind, weights ``[(N + M) D]`` and epsilon; ones where there are none."""
    heads = [module.q_proj.weight.shape[0] // module.head_dim, module.k_proj.weight.shape[0] // module.head_dim]
    if getattr(module, "q_norm", None) is None:
        ones = torch.ones(sum(heads) * module.head_dim, device=module.q_proj.weight.device)
        return NO_NORM, ones.float(), 0.0
    norms = module.q_norm, module.k_norm
    parts = [norm.weight.detach().float() for norm in norms]
    kind = NORM_OF_ROW
    if all(len(part) == module.head_dim for part in parts) and max(heads) > 1:
        kind = NORM_OF_HEAD
        parts = [part.repeat(count) for part, count in zip(parts, heads, strict=True)]
    return kind, torch.cat(parts), norms[0].variance_epsilon


def _gate(module: Any, layer: int) -> Gate:
    return Gate(layer, module.weight.detach().t(), module.top_k, bool(getattr(module, "norm_topk_prob", True)))


def _shared_expert(module: Any) -> Callable[[Tensor], Tensor] | None:
    if not hasattr(module, "shared_expert"):
        return None

    def shared(rows: Tensor) -> Tensor:
        share: Tensor = torch.sigmoid(module.shared_expert_gate(rows)) * module.shared_expert(rows)
        return share

    return shared
