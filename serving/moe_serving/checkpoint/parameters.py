"""Names and shapes of a model's parameters that belong to no expert, as transformers' modules have them.

Pure arithmetic without torch: what a checkpoint lacks is told before a process with torch starts. A test compares it
with the modules that transformers builds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moe_serving.checkpoint.families import Family

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Attributes:
    layers: decoder layers, dense ones included; ``moe_layers`` are those with experts.
    hidden: width of a token's row.
    heads, key_value_heads, head_dim: of attention.
    dense: width inside a dense layer; ``shared`` inside the shared expert.
    bias: whether the attention's projections have one.
    """

    vocabulary: int
    layers: int
    moe_layers: tuple[int, ...]
    experts: int
    hidden: int
    heads: int
    key_value_heads: int
    head_dim: int
    dense: int
    shared: int
    bias: bool


def other_parameters(family: Family, sizes: Sizes) -> dict[str, Shape]:
    """Shapes by name, of everything but experts."""
    hidden = sizes.hidden
    parameters: dict[str, Shape] = {EMBEDDINGS: (sizes.vocabulary, hidden)}
    for layer in range(sizes.layers):
        prefix = f"model.layers.{layer}."
        parameters[f"{prefix}input_layernorm.weight"] = (hidden,)
        parameters[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
        parameters.update((f"{prefix}self_attn.{name}", shape) for name, shape in _attention(family, sizes))
        parameters.update((f"{prefix}mlp.{name}", shape) for name, shape in _block(family, sizes, layer))
    parameters["model.norm.weight"] = (hidden,)
    parameters[HEAD] = (sizes.vocabulary, hidden)
    return parameters


def _attention(family: Family, sizes: Sizes) -> Iterator[tuple[str, Shape]]:
    queries, keys = sizes.heads * sizes.head_dim, sizes.key_value_heads * sizes.head_dim
    for name, width in (("q", queries), ("k", keys), ("v", keys)):
        yield f"{name}_proj.weight", (width, sizes.hidden)
        if sizes.bias:
            yield f"{name}_proj.bias", (width,)
    yield "o_proj.weight", (sizes.hidden, queries)
    if sizes.bias and family.output_bias:
        yield "o_proj.bias", (sizes.hidden,)
    if family.norm_of == "head":
        yield "q_norm.weight", (sizes.head_dim,)
        yield "k_norm.weight", (sizes.head_dim,)
    elif family.norm_of == "row":
        yield "q_norm.weight", (sizes.hidden,)
        yield "k_norm.weight", (sizes.hidden // sizes.heads * sizes.key_value_heads,)


def _block(family: Family, sizes: Sizes, layer: int) -> Iterator[tuple[str, Shape]]:
    if layer not in sizes.moe_layers:
        yield from _dense("", sizes.hidden, sizes.dense)
        return
    yield "gate.weight", (sizes.experts, sizes.hidden)
    if family.has_shared_expert:
        yield from _dense("shared_expert.", sizes.hidden, sizes.shared)
        yield "shared_expert_gate.weight", (1, sizes.hidden)


def _dense(prefix: str, hidden: int, inner: int) -> Iterator[tuple[str, Shape]]:
    yield f"{prefix}gate_proj.weight", (inner, hidden)
    yield f"{prefix}up_proj.weight", (inner, hidden)
    yield f"{prefix}down_proj.weight", (hidden, inner)
