"""The lean step against transformers' modules, step by step: every family that has one, whatever a step is made of."""

import logging
from dataclasses import replace
from itertools import takewhile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from numba.core.dispatcher import Dispatcher
from reference import CONFIGS, build_checkpoint
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeAttention, Qwen3MoeTopKRouter

from moe_contract.applications import AttentionConfig
from moe_serving.engine import block_allocator
from moe_serving.engine import model as engine_model
from moe_serving.engine.lean import kernels, step
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.model import load_attention_model
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.runner import ModelRunner
from moe_serving.engine.scheduler import Scheduler, take_tokens
from moe_serving.engine.sequence import Sequence

TOKENS = 24
LENGTHS = (1, 2, 17, 300, 40, 5)
"""Of prompts: one is far longer than any window, and than what a step takes of it."""
VARIANTS = {
    **{name: (name, {}) for name in CONFIGS},
    "qwen3_moe, bias, window": ("qwen3_moe", {"attention_bias": True, "use_sliding_window": True, "sliding_window": 9}),
    "qwen3_moe, weights as they are": ("qwen3_moe", {"norm_topk_prob": False}),
    "olmoe, bias": ("olmoe", {"attention_bias": True, "norm_topk_prob": True}),
    "qwen2_moe, no bias": ("qwen2_moe", {"qkv_bias": False}),
    "mixtral, tied": ("mixtral", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
}


def loaded(path, dtype="float32"):
    return load_attention_model(path, dtype, "cpu", LocalExperts(path, dtype, "cpu"))


def logits_of(model, forced=None, lengths=LENGTHS, count=TOKENS):
    """Of answers to prompts of all ``lengths``, which join one after the other; and their tokens, or those ``forced``.

    Prompts go in chunks beside those that decode.
    """
    limits = AttentionConfig(max_batch_tokens=24, max_running=8, kv_cache_tokens=1024)
    scheduler = Scheduler(limits)
    runner = ModelRunner(model, scheduler.blocks.end)
    generator = torch.Generator().manual_seed(5)
    waiting = [
        Sequence(
            GenerationRequest(
                str(number),
                tuple(torch.randint(3, 320, (length,), generator=generator).tolist()),
                Sampling(max_tokens=count, ignore_eos=True),
            )
        )
        for number, length in enumerate(lengths)
    ]
    sequences, told = list(waiting), [[] for _ in waiting]
    with torch.inference_mode():
        while waiting or scheduler.busy:
            if waiting:
                scheduler.add(waiting.pop(0))
            for chunks in takewhile(bool, (scheduler.next_step() for _ in range(3))):
                logits = runner.logits(chunks)
                sampled = [int(chunk.sequence.request_id) for chunk in chunks if chunk.samples]
                tokens = logits.argmax(-1).tolist()
                for number, row in zip(sampled, logits, strict=True):
                    told[number].append(row.float())
                if forced:
                    tokens = [forced[number][len(told[number]) - 1] for number in sampled]
                for done in take_tokens(chunks, tokens)[0]:
                    if done.finish_reason(frozenset()):
                        scheduler.discard(done)
    return torch.stack([torch.stack(rows) for rows in told]), [each.token_ids[-count:] for each in sequences]


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_and_tokens_are_those_of_transformers_modules(tmp_path, variant):
    name, fields = VARIANTS[variant]
    model = loaded(build_checkpoint(name, tmp_path, **fields))
    assert model.lean is not None
    wanted, tokens = logits_of(replace(model, lean=None))
    found, own = logits_of(model)
    assert own == tokens
    assert found.shape == (len(LENGTHS), TOKENS, 320)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("variant", ["qwen3_moe", "qwen2_moe-window"])
def test_where_blocks_lie_changes_nothing(checkpoint_of, monkeypatch, variant, lean):
    model = loaded(checkpoint_of(variant))
    model = model if lean else replace(model, lean=None)
    wanted, tokens = logits_of(model)
    random = np.random.default_rng(0)
    monkeypatch.setattr(block_allocator, "_choose", lambda free, count: random.permutation(free)[:count])
    found, own = logits_of(model)
    assert own == tokens
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_no_step_waits_for_a_compiler(checkpoint_of, dtype):
    model = loaded(checkpoint_of("qwen3_moe"), dtype)
    compiling = [each for each in vars(kernels).values() if isinstance(each, Dispatcher)]
    compiled = {each: list(each.signatures) for each in compiling}
    assert len(compiled[kernels.attend]) >= 1
    logits_of(model)
    assert {each: list(each.signatures) for each in compiling} == compiled


def test_prepared_kernels_are_those_that_a_model_needs(checkpoint_of):
    compiling = [each for each in vars(kernels).values() if isinstance(each, Dispatcher)]
    for each in compiling:
        each._reset_overloads()
    kernels.prepare()
    prepared = {each: list(each.signatures) for each in compiling}
    for dtype in ("float32", "bfloat16"):
        logits_of(loaded(checkpoint_of("qwen3_moe"), dtype))
    assert {each: list(each.signatures) for each in compiling} == prepared


def test_in_bfloat16_it_strays_no_further_from_the_truth(tmp_path):
    path = build_checkpoint("qwen3_moe", tmp_path, dtype=torch.bfloat16, initializer_range=0.05)
    truth, tokens = logits_of(replace(loaded(path), lean=None))
    model = loaded(path, "bfloat16")
    assert model.lean is not None
    lean, general = (logits_of(each, tokens)[0] for each in (model, replace(model, lean=None)))
    distances = [float((logits - truth).norm(dim=-1).log().mean().exp()) for logits in (lean, general)]
    assert distances[0] <= 1.1 * distances[1], distances


@pytest.mark.parametrize("rows", [2, 8, 128, 129])
def test_in_bfloat16_a_row_is_added_alike_alone_and_among_others(rows):
    generator = torch.Generator().manual_seed(0)
    weight, added = (torch.randn(size, generator=generator).bfloat16() for size in ((512, 256), (rows, 256)))
    matrix = weight.t()
    alone, together = torch.randn(rows, 512, generator=generator).bfloat16().repeat(2, 1, 1)
    for row in range(rows):
        step._add_product(alone[row : row + 1], added[row : row + 1], matrix)
    step._add_product(together, added, matrix)
    assert (alone != together).float().mean() <= 1e-3


def test_its_weights_are_the_modules_own(checkpoint_of):
    model = loaded(checkpoint_of("qwen2_moe"))
    attention = model.module.model.layers[0].self_attn
    with torch.no_grad():
        attention.k_proj.weight.zero_()
        attention.k_proj.bias.zero_()
    wanted = logits_of(replace(model, lean=None))[0]
    torch.testing.assert_close(logits_of(model)[0], wanted, rtol=1e-3, atol=1e-3)


class Told(LocalExperts):
    """Tells when it is asked and when it is waited for."""

    def __init__(self, path):
        super().__init__(path, "float32", "cpu")
        self.order = []

    def submit(self, *args):
        self.order.append("submit")
        pending = super().submit(*args)
        return SimpleNamespace(collect=lambda: (self.order.append("collect"), pending.collect())[1])


def test_what_lies_beside_experts_is_computed_while_these_are(checkpoint_of):
    path = checkpoint_of("qwen2_moe")
    experts = Told(path)
    model = load_attention_model(path, "float32", "cpu", experts)
    wanted = logits_of(loaded(path))[0]
    shared = [layer.mlp.shared_expert for layer in model.module.model.layers if hasattr(layer.mlp, "shared_expert")]
    for each in shared:
        each.register_forward_hook(lambda *_: experts.order.append("beside"))
    found = logits_of(model)[0]
    steps = len(experts.order) // (3 * len(shared))
    assert experts.order == ["submit", "beside", "collect"] * (steps * len(shared))
    assert steps > TOKENS and torch.equal(found, wanted)


def test_a_layer_is_collected_even_where_what_lies_beside_fails(checkpoint_of):
    path = checkpoint_of("qwen2_moe")
    experts = Told(path)
    model = load_attention_model(path, "float32", "cpu", experts)

    def fail(*_):
        raise MemoryError("no room")

    model.module.model.layers[0].mlp.shared_expert.register_forward_hook(fail)
    with pytest.raises(MemoryError, match="no room"):
        logits_of(model)
    assert experts.order == ["submit", "collect"]


def test_what_it_does_not_have_is_computed_by_transformers_modules_and_said(tmp_path, caplog):
    path = build_checkpoint("olmoe", tmp_path, clip_qkv=0.5)
    with caplog.at_level(logging.INFO):
        model = loaded(path)
    assert model.lean is None
    assert "are computed by transformers' modules: its configuration has clip_qkv: 0.5" in caplog.text


def test_kernels_that_are_not_to_be_had_are_said_once_and_the_modules_compute(checkpoint_of, monkeypatch, caplog):
    """As where there is no Triton, or where it cannot compile them for a device."""

    def kernels_for(device):
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(engine_model, "kernels_for", kernels_for)
    with caplog.at_level(logging.INFO):
        assert loaded(checkpoint_of("qwen3_moe")).lean is None
    assert caplog.text.count("computed by transformers' modules") == 1
    assert "a first lean step fails: ImportError: No module named 'triton'" in caplog.text


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (Qwen3MoeAttention, lambda result: (result[0] * 1.05, *result[1:])),
        (Qwen3MoeTopKRouter, lambda result: (*result[:1], result[1] * 1.05, *result[2:])),
    ],
)
def test_modules_that_compute_something_else_are_found_out(checkpoint_of, monkeypatch, caplog, part, change):
    """As those of a later transformers might."""
    own = part.forward
    monkeypatch.setattr(part, "forward", lambda self, *args, **kwargs: change(own(self, *args, **kwargs)))
    with caplog.at_level(logging.INFO):
        assert loaded(checkpoint_of("qwen3_moe")).lean is None
    assert "in a first step its logits are off by" in caplog.text
