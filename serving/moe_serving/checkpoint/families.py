"""The model families that can be served, one entry each: where their configuration and tensors keep the experts.

Pure data without torch. A new family is one more entry in ``FAMILIES``, provided that its checkpoints store experts
one by one, its experts module is transformers' usual one (gate, up and down projection, no bias), and its attention
keeps keys and values only. Tensor names follow transformers' ``conversion_mapping.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

ACTIVATIONS = ("silu", "gelu", "relu")
"""Values of ``hidden_act`` that shards can compute."""


@dataclass(frozen=True, slots=True)
class ExpertTensors:
    """Names of the three tensors of one expert: gate and up ``[I, H]``, down ``[H, I]``."""

    gate: str
    up: str
    down: str


@dataclass(frozen=True, slots=True)
class Family:
    """Attributes:
    architecture: short name, as shown to people.
    model_type: of transformers; its modeling module is ``transformers.models.<model_type>.modeling_<model_type>``.
    experts_class: the experts module in there.
    experts_field, top_k_field, intermediate_field: in ``config.json``.
    expert_prefix: of the tensors of one expert.
    projections: of gate, up and down below the prefix.
    has_dense_layers: ``mlp_only_layers`` and ``decoder_sparse_step`` say which layers are dense.
    """

    architecture: str
    model_type: str
    experts_class: str
    experts_field: str = "num_experts"
    top_k_field: str = "num_experts_per_tok"
    intermediate_field: str = "moe_intermediate_size"
    expert_prefix: str = "model.layers.{layer}.mlp.experts.{expert}."
    projections: tuple[str, str, str] = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")
    has_dense_layers: bool = False

    def expert_tensors(self, layer: int, expert: int) -> ExpertTensors:
        """Tensor names of one expert; ``layer`` counts all decoder layers, dense ones included."""
        prefix = self.expert_prefix.format(layer=layer, expert=expert)
        return ExpertTensors(*(prefix + projection for projection in self.projections))


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            architecture="Mixtral",
            model_type="mixtral",
            experts_class="MixtralExperts",
            experts_field="num_local_experts",
            intermediate_field="intermediate_size",
            expert_prefix="model.layers.{layer}.block_sparse_moe.experts.{expert}.",
            projections=("w1.weight", "w3.weight", "w2.weight"),
        ),
        Family("Qwen2Moe", "qwen2_moe", "Qwen2MoeExperts", has_dense_layers=True),
        Family("Qwen3Moe", "qwen3_moe", "Qwen3MoeExperts", has_dense_layers=True),
        Family("Olmoe", "olmoe", "OlmoeExperts", intermediate_field="intermediate_size"),
    )
}

EXPERT_COUNT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_moe_experts")
"""Under these names configurations of any family say how many experts a layer has."""


def supported_architectures() -> str:
    """For messages: ``Mixtral (mixtral), …``."""
    return ", ".join(f"{family.architecture} ({model_type})" for model_type, family in FAMILIES.items())
