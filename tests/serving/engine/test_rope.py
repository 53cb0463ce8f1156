"""Rotary embeddings of every type: tokens are transformers' own on both sides of every limit, whatever else runs.

The reference is a model as it comes from ``from_pretrained``, which answers one prompt: in one go, then token by token.
"""

import pytest
import torch
from driver import complete, greedy, running_engine
from reference import CONFIGS, build_checkpoint
from transformers import AutoModelForCausalLM

from moe_contract.applications import AttentionConfig

LIMIT, LONGEST, TOKENS = 24, 96, 10
LENGTHS = (3, LIMIT - 12, LIMIT - 5, LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 20)
"""Of prompts: some answers stay below the limit, some cross it, some begin beyond."""

VARIANTS = [*CONFIGS, "qwen3_moe-window"]
HEAD_DIMS = {"qwen3_moe": 24}


def rope(kind, half):
    stretched = {"factor": LONGEST / LIMIT, "original_max_position_embeddings": LIMIT}
    fields = {
        "default": {},
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 4.0},
        "yarn": stretched,
        "longrope": stretched
        | {"short_factor": [1.0 + n / half for n in range(half)], "long_factor": [1.0 + n for n in range(half)]},
        "llama3": stretched | {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
    }[kind]
    return {"rope_type": kind, "rope_theta": 10_000.0} | fields


KINDS = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
SAMPLE = [("mixtral-window", "longrope"), ("qwen2_moe", "dynamic"), ("qwen3_moe-window", "yarn"), ("olmoe", "llama3")]
SHAPES = {
    "alone": (AttentionConfig(), 1),
    "packed": (AttentionConfig(), len(LENGTHS)),
    "alone, in chunks": (AttentionConfig(max_batch_tokens=7), 1),
    "packed, in chunks": (AttentionConfig(max_batch_tokens=11), len(LENGTHS)),
}


def checkpoint(path, variant, kind):
    family = variant.removesuffix("-window")
    fields = {}
    if variant == "qwen3_moe-window":
        variant, fields = family, {"use_sliding_window": True, "sliding_window": 9}
    if family == "mixtral":
        fields = {"head_dim": 16}  # without it transformers cannot compute dynamic and longrope
    half = HEAD_DIMS.get(family, 16) // 2
    # Where scaling stretches from max_position_embeddings, that is the limit; else it is the length reached.
    positions = LIMIT if kind == "dynamic" else LONGEST
    return build_checkpoint(
        variant, path, rope_parameters=rope(kind, half), max_position_embeddings=positions, **fields
    )


@torch.inference_mode()
def answers_of_transformers(path, asked):
    answers = []
    for prompt in asked:
        # A model of its own for each: the rotary module remembers the longest sequence it has seen.
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, attn_implementation="eager")
        model.generation_config.eos_token_id = None
        out = model.generate(torch.tensor([prompt]), do_sample=False, max_new_tokens=TOKENS, pad_token_id=0)
        answers.append(tuple(out[0, len(prompt) :].tolist()))
    return answers


def compare(path, kind):
    generator = torch.Generator().manual_seed(3)
    asked = [tuple(torch.randint(3, 320, (length,), generator=generator).tolist()) for length in LENGTHS]
    wanted = answers_of_transformers(path, asked)
    assert len(set(wanted)) == len(wanted)
    for shape, (limits, at_once) in SHAPES.items():
        with running_engine(path, limits) as engine:
            assert complete(engine, asked, greedy(TOKENS), at_once) == wanted, f"{kind}, {shape}"
            # Again, behind sequences beyond the limit; and an answer that another replica began.
            assert complete(engine, asked[:1], greedy(TOKENS)) == wanted[:1], f"{kind}, {shape}, again"


@pytest.mark.parametrize(("variant", "kind"), SAMPLE)
def test_sample(tmp_path, variant, kind):
    compare(checkpoint(tmp_path, variant, kind), kind)


@pytest.mark.whole
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_all(tmp_path, variant, kind):
    compare(checkpoint(tmp_path, variant, kind), kind)
