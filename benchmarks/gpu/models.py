"""The models that are measured: random ones, made on the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3MoeConfig

from benchmarks.gpu.card import Card
from moe_serving.engine.cache import CacheShape
from moe_serving.engine.lean.step import LeanStep
from moe_serving.engine.model import AttentionModel
from moe_serving.engine.rope import SequenceRope
from moe_serving.gpu.client import ResidentExperts
from moe_serving.gpu.experts import Tuning, tuning_for
from moe_serving.gpu.lean import kernels_in_triton
from moe_serving.gpu.table import ExpertTable


@dataclass(frozen=True, slots=True)
class Size:
    """Attributes:
    fields: of the configuration.
    exact_layers: of the model in float32 whose tokens are compared.
    dtype: in which speed is measured.
    batches, attended: sequences that decode, and of those whose attention is measured alone.
    context, tokens: of each sequence before decoding, and to be decoded where tokens are compared.
    rounds: of each figure.
    read_bytes: of the buffer by which the bandwidth is measured.
    """

    words: str
    fields: Mapping[str, Any]
    exact_layers: int
    dtype: torch.dtype
    batches: tuple[int, ...]
    attended: tuple[int, ...]
    context: int
    tokens: int
    rounds: int
    read_bytes: int


SIZES = {
    "12-layer": Size(
        words="12 layers of a Qwen3-30B-A3B, bfloat16",
        fields={
            "num_hidden_layers": 12, "hidden_size": 2048, "num_experts": 128, "num_experts_per_tok": 8,
            "moe_intermediate_size": 768, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
            "vocab_size": 32_000, "max_position_embeddings": 4096, "norm_topk_prob": True,
        },
        exact_layers=4, dtype=torch.bfloat16, batches=(1, 8, 32, 128), attended=(32, 128), context=256, tokens=32,
        rounds=9, read_bytes=4 << 30,
    ),
    "smallest": Size(
        words="one layer, for Triton's interpreter: its figures say nothing",
        fields={
            "num_hidden_layers": 1, "hidden_size": 32, "num_experts": 3, "num_experts_per_tok": 2,
            "moe_intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
            "vocab_size": 64, "max_position_embeddings": 128, "norm_topk_prob": True,
        },
        exact_layers=1, dtype=torch.float32, batches=(2,), attended=(2,), context=4, tokens=2, rounds=1,
        read_bytes=1 << 20,
    ),
}  # fmt: skip


def build(card: Card, size: Size, dtype: torch.dtype, layers: int | None = None, seed: int = 0) -> Any:
    """A causal language model of transformers, its experts by ``grouped_mm``; weights wide enough that answers differ.

    Args:
        layers: of it; None for those of ``size``.
    """
    fields = {**size.fields, **({"num_hidden_layers": layers} if layers else {})}
    config = Qwen3MoeConfig(**fields, initializer_range=0.05, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    torch.manual_seed(seed)
    with card.device:
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation="sdpa", experts_implementation="grouped_mm"
        )
    return model.eval().requires_grad_(False)


def tuning(card: Card, dtype: torch.dtype) -> Tuning:
    return tuning_for(dtype, card.shared_bytes)


def tables(model: Any) -> list[ExpertTable]:
    """Of all layers: transformers' own weights, where they are."""
    experts = [layer.mlp.experts for layer in model.model.layers]
    return [ExpertTable.of(list(each.gate_up_proj), list(each.down_proj), "silu") for each in experts]


def lean(card: Card, model: Any) -> AttentionModel:
    """The same model as our engine computes it, with the same weights, experts in this process."""
    config = model.config
    experts = ResidentExperts(tables(model), tuning(card, model.dtype))
    windows = dict.fromkeys(range(config.num_hidden_layers), 0)
    kind = type(model.model.layers[0].mlp.experts)
    step = LeanStep(model, kind, windows, experts, kernels_in_triton())
    return AttentionModel(
        module=model,
        cache_shape=CacheShape(config.num_hidden_layers, config.num_key_value_heads, config.head_dim),
        end_token_ids=frozenset(),
        vocabulary=config.vocab_size,
        max_context=config.max_position_embeddings,
        rope=SequenceRope.of(model),
        lean=step,
        dtype=model.dtype,
        device=card.device,
    )
