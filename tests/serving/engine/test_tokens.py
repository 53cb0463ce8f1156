"""The engine's tokens are transformers' own, whatever else is in the batch: every family, experts in process."""

import json
import shutil

import pytest
from driver import ask, complete, greedy, running_engine
from exactness import Tally, compare
from reference import CONFIGS, prompts, reference_greedy, reference_model

from moe_contract.applications import AttentionConfig
from moe_serving.engine.local_experts import LocalExperts

TOKENS = 32

SHAPES = {
    "alone": (AttentionConfig(), 1),
    "8 at once": (AttentionConfig(), 8),
    "long prompts in chunks": (AttentionConfig(max_batch_tokens=11), 8),
    "more requests than places": (AttentionConfig(max_running=3, kv_cache_tokens=160), 8),
}
"""Limits of the engine, and how many requests are submitted together."""


@pytest.fixture(scope="module")
def tally():
    tally = Tally()
    yield tally
    print(tally)
    tally.check()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("variant", CONFIGS)
def test_every_family(checkpoint_of, variant, shape, tally):
    limits, at_once = shape
    compare_all(checkpoint_of(variant), prompts(8), limits, at_once, tally)


@pytest.mark.parametrize("shape", [SHAPES["alone"], SHAPES["8 at once"]], ids=["alone", "8 at once"])
def test_the_trained_model(tiny, shape, tally):
    limits, at_once = shape
    asked = prompts(8, vocabulary=reference_model(tiny).config.vocab_size)
    compare_all(tiny, asked, limits, at_once, tally)


def compare_all(path, asked, limits, at_once, tally):
    expected = reference_greedy(path, asked, TOKENS)
    with running_engine(path, limits) as engine:
        answers = complete(engine, asked, greedy(TOKENS), at_once)
        for prompt, wanted, got in zip(asked, expected, answers, strict=True):
            compare(path, prompt, wanted, got, lambda done, p=prompt: rest(engine, p, done), tally)


def rest(engine, prompt, emitted):
    return ask(engine, prompt, greedy(TOKENS), emitted).wait().token_ids


@pytest.mark.parametrize("kind", ["yarn", "linear"])
def test_beyond_the_length_of_the_training(checkpoint_of, tmp_path, tally, kind):
    path = shutil.copytree(checkpoint_of("qwen3_moe"), tmp_path / kind)
    config = json.loads((path / "config.json").read_text())
    trained = {"original_max_position_embeddings": 24} if kind == "yarn" else {}
    config["rope_parameters"] = {"rope_type": kind, "rope_theta": 10000.0, "factor": 8.0} | trained
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 24}))
    asked = [prompt for prompt in prompts(8) if len(prompt) + TOKENS <= 8 * 24]
    assert max(len(prompt) + TOKENS for prompt in asked) > 24
    compare_all(path, asked, AttentionConfig(max_batch_tokens=50), 8, tally)


def test_late_joiners(checkpoint_of, tally):
    path = checkpoint_of("mixtral")
    asked = prompts(6, seed=1)
    expected = reference_greedy(path, asked, TOKENS)
    with running_engine(path, AttentionConfig(max_batch_tokens=16)) as engine:
        answers = []
        for prompt in asked:
            # Each joins when the one before is in the middle of its answer.
            answers.append(ask(engine, prompt, greedy(TOKENS)))
            answers[-1].wait(tokens=5)
        for prompt, wanted, answer in zip(asked, expected, answers, strict=True):
            got = answer.wait().token_ids
            compare(path, prompt, wanted, got, lambda done, p=prompt: rest(engine, p, done), tally)


def test_a_lost_expert_would_be_seen(checkpoint_of):
    """The comparison has teeth: one of the experts answering zero changes the tokens."""
    path = checkpoint_of("mixtral")
    asked = prompts(8)
    experts = LocalExperts(path, "float32", "cpu")
    experts._layers[2][3].down.zero_()
    with running_engine(path, experts=experts) as engine:
        assert complete(engine, asked, greedy(TOKENS)) != reference_greedy(path, asked, TOKENS)
