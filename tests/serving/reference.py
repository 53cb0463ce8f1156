"""Small random checkpoints of every family, and what plain transformers answers on them: the truth to compare with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    MixtralConfig,
    OlmoeConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

# Matrices this small gain nothing from threads, which on a busy machine wait long for each other.
torch.set_num_threads(1)
transformers.logging.disable_progress_bar()

VOCABULARY = 320
END = 2

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    # Wide enough for answers that neither repeat themselves nor ignore an expert.
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": END,
}

CONFIGS: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "mixtral": (MixtralConfig, {"intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2}),
    "mixtral-window": (
        MixtralConfig,
        {"intermediate_size": 96, "num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 12},
    ),
    "qwen2_moe": (
        Qwen2MoeConfig,
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "mlp_only_layers": [1],
        },
    ),
    "qwen2_moe-window": (
        Qwen2MoeConfig,
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 48,
            "shared_expert_intermediate_size": 64,
            "num_experts": 8,
            "num_experts_per_tok": 2,
            "use_sliding_window": True,
            "sliding_window": 10,
            "max_window_layers": 3,
        },
    ),
    "qwen3_moe": (
        Qwen3MoeConfig,
        {
            "intermediate_size": 96,
            "moe_intermediate_size": 48,
            "head_dim": 24,
            "num_experts": 8,
            "num_experts_per_tok": 3,
            "decoder_sparse_step": 2,
            "norm_topk_prob": True,
        },
    ),
    "olmoe": (OlmoeConfig, {"intermediate_size": 48, "num_experts": 8, "num_experts_per_tok": 3}),
}
"""Per variant: dense layers, sliding windows, odd head sizes and the like are spread over them."""


def build_checkpoint(variant: str, path: Path, seed: int = 0, **overrides: Any) -> Path:
    """A random checkpoint of ``variant`` (a key of ``CONFIGS``) in ``path``, as ``save_pretrained`` writes it.

    ``overrides`` are fields of the configuration, and ``dtype`` (a torch dtype), ``max_shard_size`` and ``fused``
    (experts as transformers 5 holds them) of the files.
    """
    dtype = overrides.pop("dtype", torch.float32)
    shard_size = overrides.pop("max_shard_size", "5GB")
    fused = overrides.pop("fused", False)
    config_class, fields = CONFIGS[variant]
    config = config_class(**{**_COMMON, **fields, **overrides})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).to(dtype)
    model.save_pretrained(path, max_shard_size=shard_size, save_original_format=not fused)
    build_tokenizer().save_pretrained(path)
    return path


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words ``w0 … wN`` and three special tokens: enough to be loaded and to round-trip."""
    words = ["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<pad>"
    )


def prompts(count: int, seed: int = 0, longest: int = 40, vocabulary: int = VOCABULARY) -> list[tuple[int, ...]]:
    """Random prompts of 1 to ``longest`` tokens without special ones."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    return [tuple(torch.randint(3, vocabulary, (length,), generator=generator).tolist()) for length in lengths]


def reference_model(path: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The whole model in plain transformers, eager attention and experts."""
    return loaded(path, dtype)[0]


@cache
def loaded(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, dict[str, Any]]:
    """That, and what ``from_pretrained`` says of how it was loaded."""
    model: PreTrainedModel
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=dtype,
        local_files_only=True,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
    model.config.eos_token_id = None
    return model.eval(), info


def reference_greedy(path: Path, asked: Sequence[Sequence[int]], tokens: int) -> list[tuple[int, ...]]:
    """What ``generate`` answers to each prompt, one at a time: ``tokens`` tokens; no token ends an answer."""
    return [_reference_answer(path, tuple(prompt), tokens) for prompt in asked]


@cache
@torch.inference_mode()
def _reference_answer(path: Path, prompt: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    out = reference_model(path).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens)
    return tuple(out[0, len(prompt) :].tolist())
