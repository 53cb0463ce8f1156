"""The model families that can be served, one entry each: where their configuration and tensors keep what.

Pure data without torch. A new family is one more entry in ``FAMILIES``, provided that its experts module is
transformers' usual one (gate, up and down projection, no bias), and its attention keeps keys and values only. Names
are those of transformers' modules; ``renamed`` and ``projections`` follow its ``conversion_mapping.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ACTIVATIONS = ("silu", "gelu", "relu")
"""Values of ``hidden_act`` that shards can compute."""


@dataclass(frozen=True, slots=True)
class Family:
    """Attributes:
    architecture: short name, as shown to people.
    model_type: of transformers; its modeling module is ``transformers.models.<model_type>.modeling_<model_type>``.
    experts_class: the experts module in there.
    experts_field, top_k_field, intermediate_field: in ``config.json``.
    projections: of gate, up and down below the number of an expert, where experts are stored one by one.
    renamed: a part of names as stored one by one, and what it is in transformers' modules.
    has_dense_layers: ``mlp_only_layers`` and ``decoder_sparse_step`` say which layers are dense.
    has_shared_expert: each MoE layer has an expert that sees all tokens, and a gate for it.
    has_window: its attention may reach back only ``sliding_window`` tokens.
    key_value_heads: transformers' default of ``num_key_value_heads``; None is as many as query heads.
    bias_field, bias_default: which field gives the attention's projections a bias.
    output_bias: that field counts for the output projection too.
    norm_of: what the norms of queries and keys span, if there are any.
    """

    architecture: str
    model_type: str
    experts_class: str
    experts_field: str = "num_experts"
    top_k_field: str = "num_experts_per_tok"
    intermediate_field: str = "moe_intermediate_size"
    projections: tuple[str, str, str] = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
    renamed: tuple[str, str] | None = None
    has_dense_layers: bool = False
    has_shared_expert: bool = False
    has_window: bool = True
    key_value_heads: int | None = None
    bias_field: str | None = None
    bias_default: bool = False
    output_bias: bool = True
    norm_of: Literal["head", "row"] | None = None

    def module_name(self, stored: str) -> str:
        """What transformers' modules call the tensor that is stored under this name."""
        return stored.replace(*self.renamed) if self.renamed else stored

    def stored_name(self, name: str) -> str:
        """Under which name checkpoints usually store it: for messages."""
        return name.replace(self.renamed[1], self.renamed[0]) if self.renamed else name


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            architecture="Mixtral",
            model_type="mixtral",
            experts_class="MixtralExperts",
            experts_field="num_local_experts",
            intermediate_field="intermediate_size",
            projections=("w1.weight", "w3.weight", "w2.weight"),
            renamed=(".block_sparse_moe.", ".mlp."),
            key_value_heads=8,
        ),
        Family(
            architecture="Qwen2Moe",
            model_type="qwen2_moe",
            experts_class="Qwen2MoeExperts",
            has_dense_layers=True,
            has_shared_expert=True,
            key_value_heads=16,
            bias_field="qkv_bias",
            bias_default=True,
            output_bias=False,
        ),
        Family(
            architecture="Qwen3Moe",
            model_type="qwen3_moe",
            experts_class="Qwen3MoeExperts",
            has_dense_layers=True,
            key_value_heads=4,
            bias_field="attention_bias",
            norm_of="head",
        ),
        Family(
            architecture="Olmoe",
            model_type="olmoe",
            experts_class="OlmoeExperts",
            intermediate_field="intermediate_size",
            has_window=False,
            bias_field="attention_bias",
            norm_of="row",
        ),
    )
}

EXPERT_COUNT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
"""Under these names configurations of any family say how many experts a layer has."""


def supported_architectures() -> str:
    """For messages: ``Mixtral (mixtral), …``."""
    return ", ".join(f"{family.architecture} ({model_type})" for model_type, family in FAMILIES.items())
