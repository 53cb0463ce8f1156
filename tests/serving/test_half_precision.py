"""Exactness (c) of the design: in 16 bits a sharded model strays from the truth no further than transformers itself.

The truth is the same 16-bit weights computed in float32. The measure is the distance of the logits to it under teacher
forcing, every token behind the same tokens: which token wins is luck wherever two logits are close, and 16 bits make
that often. Transformers is asked with its default attention, each prompt alone, token by token, and all in one batch.
"""

from __future__ import annotations

import pytest
import torch
from cluster import LocalCluster
from reference import prompts
from torch import Tensor
from transformers import AutoModelForCausalLM

from moe_contract.applications import AttentionConfig
from moe_serving.engine.model import load_attention_model
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.runner import ModelRunner
from moe_serving.engine.scheduler import Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence

PROMPTS, TOKENS = 32, 24
MORE = 1.1
"""Another order of summing alone moves the mean over 768 tokens by up to two parts in a hundred."""

Tokens = tuple[int, ...]
Asked = list[tuple[Tokens, Tokens]]
"""Prompts and what is put behind them."""


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.whole)])
@pytest.mark.parametrize("variant", ["tiny", "mixtral", "olmoe"])
def test_distance_to_float32(request, checkpoint_of, variant, dtype):
    path = request.getfixturevalue("tiny") if variant == "tiny" else checkpoint_of(variant)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), local_files_only=True).eval()
    asked, alone = answer_alone(model, prompts(PROMPTS, longest=20, vocabulary=model.config.vocab_size))
    batch = logits_in_one_batch(model, asked)
    truth = logits_in_one_batch(model.float(), asked)
    with LocalCluster.start(path, shards=2, dtype=dtype) as cluster:
        cluster.place(shards=2, copies=1)
        sharded = logits_of_engine(load_attention_model(path, dtype, "cpu", cluster.client()), asked)
    own, ours = [distance(logits, truth) for logits in (alone, batch)], distance(sharded, truth)
    print(f"distance to float32: transformers alone {own[0]:.4g}, in a batch {own[1]:.4g}; sharded {ours:.4g}")
    assert ours <= MORE * max(own)


def distance(logits: Tensor, truth: Tensor) -> float:
    """Of ``[prompts, TOKENS, vocabulary]``: the root mean square over the vocabulary, as geometric mean over tokens.

    Geometric, since a gate that tips makes a few distances a hundred times the others.
    """
    return float((logits.double() - truth.double()).square().mean(dim=-1).log().mean().div(2).exp())


@torch.inference_mode()
def answer_alone(model, asked: list[Tokens]) -> tuple[Asked, Tensor]:
    """Prompts with the model's own greedy answers, and the logits ``[prompts, TOKENS, vocabulary]`` of these."""

    def one(prompt: Tokens) -> tuple[Tokens, Tensor]:
        output = model(input_ids=torch.tensor([prompt]), use_cache=True)
        logits = [output.logits[0, -1]]
        while len(logits) < TOKENS:
            output = model(logits[-1].argmax()[None, None], past_key_values=output.past_key_values, use_cache=True)
            logits.append(output.logits[0, -1])
        told = torch.stack(logits)
        return tuple(told.argmax(dim=-1).tolist()), told

    answers, logits = zip(*map(one, asked), strict=True)
    return list(zip(asked, answers, strict=True)), torch.stack(logits)


@torch.inference_mode()
def logits_in_one_batch(model, asked: Asked) -> Tensor:
    whole = [prompt + forced for prompt, forced in asked]
    longest = max(map(len, whole))
    ids = torch.tensor([(0,) * (longest - len(tokens)) + tokens for tokens in whole])
    mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in whole])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -TOKENS - 1 : -1]


@torch.inference_mode()
def logits_of_engine(model, asked: Asked) -> Tensor:
    """All prompts at once, in chunks beside decoding, as the engine's steps do it; but the tokens are ``asked``'s."""
    limits = AttentionConfig(max_batch_tokens=32)
    scheduler = Scheduler(limits)
    runner = ModelRunner(model, scheduler.blocks.end)
    forced_of = {}
    for number, (prompt, forced) in enumerate(asked):
        sequence = Sequence(GenerationRequest(str(number), prompt, Sampling(max_tokens=TOKENS)))
        forced_of[sequence.request_id] = forced
        scheduler.add(sequence)
    logits = torch.zeros(len(asked), TOKENS, model.vocabulary)
    while scheduler.busy:
        chunks = scheduler.next_step()
        sampled = [chunk.sequence for chunk in chunks if chunk.samples]
        for sequence, row in zip(sampled, runner.logits(chunks), strict=True):
            logits[int(sequence.request_id), sequence.answered] = row.float()
        take_tokens(chunks, [forced_of[sequence.request_id][sequence.answered] for sequence in sampled])
        for sequence in sampled:
            if sequence.answered == TOKENS:
                scheduler.discard(sequence)
    return logits
