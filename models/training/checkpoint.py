"""Writes the checkpoint directory that `from_pretrained` and moe-serve read. Caller: cli.py."""

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3MoeForCausalLM


def write_checkpoint(directory: Path, model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """bf16 safetensors, one tensor per expert and projection: save_pretrained undoes transformers' fused experts."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    for path in directory.iterdir():
        path.chmod(0o644)  # safetensors writes 0600, and a server may run as another user


def read_checkpoint(directory: Path) -> Qwen3MoeForCausalLM:
    """The stored model in fp32, as it is measured and, on CPU, served."""
    return Qwen3MoeForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
