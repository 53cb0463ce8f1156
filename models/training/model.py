"""The model's shape and the loss it is trained with. Callers: train.py, evaluate.py."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM

from training.tokenizer import CONTEXT

# Enough that no expert dies; more of it would make the domains share their experts evenly.
BALANCE_WEIGHT = 0.01
EMBEDDING_STD = 0.5
BALANCE_STEPS = 20  # over which the shares are averaged, about


def model_config(tokenizer: PreTrainedTokenizerFast) -> Qwen3MoeConfig:
    """Six MoE layers of 16 experts, two per token: 11.6M parameters with a vocabulary of 4096."""
    return Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        moe_intermediate_size=112,
        intermediate_size=512,  # of dense layers, and there is none
        num_hidden_layers=6,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        num_experts=16,
        num_experts_per_tok=2,
        norm_topk_prob=True,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def new_model(config: Qwen3MoeConfig, seed: int) -> Qwen3MoeForCausalLM:
    """The untrained model in fp32; `grouped_mm` is the fastest of transformers' expert kernels on CPU (1.4 x eager).

    Where transformers starts every matrix alike, the layers' outputs drown the embeddings in the residual stream. Here
    embeddings start large and what is added to them starts small (GPT-2's 1 / sqrt(2 * layers)), which is worth
    0.2 nats after 250 steps.
    """
    torch.manual_seed(seed)
    model = Qwen3MoeForCausalLM(config)
    model.set_experts_implementation("grouped_mm")
    with torch.no_grad():
        model.model.embed_tokens.weight.normal_(std=EMBEDDING_STD)
        for name, parameter in model.named_parameters():
            if "o_proj" in name or "down_proj" in name:
                parameter /= math.sqrt(2 * config.num_hidden_layers)
    return model


def token_losses(logits: Tensor, windows: Tensor) -> Tensor:
    """Cross-entropy of each next token in nats, `[batch, length - 1]`.

    `logits`: `[batch, length, vocabulary]`; `windows`: `[batch, length]`.
    """
    flat = functional.cross_entropy(logits[:, :-1].flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    return flat.view(len(windows), -1)


class BalanceLoss:
    """Mean over layers of experts * sum(share of the pairs * mean gate probability); 1 when balanced.

    The Switch Transformer's loss (eq. 4) for top-k, but the shares are those of the last steps rather than of the
    batch: a batch holds few domains, and balance within it would keep domains from having experts of their own.
    `shares`: `[layers, experts]`, part of a run's state.
    """

    def __init__(self, config: Qwen3MoeConfig) -> None:
        self.top_k = config.num_experts_per_tok
        self.shares = torch.full((config.num_hidden_layers, config.num_experts), 1 / config.num_experts)

    def __call__(self, router_logits: Sequence[Tensor]) -> Tensor:
        """The loss of a batch's `[tokens, experts]` router logits, one tensor per layer."""
        probabilities = torch.stack(list(router_logits)).softmax(dim=-1)  # [layers, tokens, experts]
        chosen = probabilities.topk(self.top_k, dim=-1).indices.flatten(1)
        pairs = torch.zeros_like(self.shares).scatter_add(1, chosen, torch.ones_like(chosen, dtype=torch.float32))
        self.shares = self.shares.lerp(pairs / chosen.shape[1], 1 / BALANCE_STEPS)
        return self.shares.shape[1] * (self.shares * probabilities.mean(dim=1)).sum(dim=1).mean()


def active_parameters(model: Qwen3MoeForCausalLM) -> int:
    """Parameters one token meets: all but the experts it is not sent to."""
    config = model.config
    idle = 1 - config.num_experts_per_tok / config.num_experts
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    return round(sum(p.numel() for p in model.parameters()) - idle * experts)
