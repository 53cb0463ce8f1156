"""The engine's tokens are transformers' own, whatever else is in the batch: every family, experts in process."""

import json
import shutil
from itertools import chain

import numpy as np
import pytest
from driver import Answer, ask, complete, greedy, running_engine
from exactness import Tally, compare
from reference import CONFIGS, prompts, reference_greedy, reference_model

from moe_contract.applications import AttentionConfig
from moe_serving.engine import block_allocator, model
from moe_serving.engine.engine import Engine
from moe_serving.engine.local_experts import LocalExperts
from moe_serving.engine.request import GenerationRequest

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


@pytest.mark.parametrize("lean", [True, False], ids=["lean", "modules"])
@pytest.mark.parametrize("variant", CONFIGS)
def test_in_blocks_that_lie_anywhere(checkpoint_of, monkeypatch, variant, lean, tally):
    random, sizes = np.random.default_rng(0), list[int]()

    def scattered(free, wanted):
        sizes.append(wanted)
        return random.permutation(free)[:wanted]

    monkeypatch.setattr(block_allocator, "_choose", scattered)
    if not lean:
        monkeypatch.setattr(model, "why_general", lambda *_: "a test wants transformers' modules")
    compare_all(checkpoint_of(variant), prompts(8), AttentionConfig(max_batch_tokens=11), 8, tally)
    assert len(sizes) >= 8 and min(sizes) > 1


def test_an_answer_runs_in_the_gaps_that_others_left(checkpoint_of):
    """There is room for d as soon as a and c have gone, of which neither leaves enough alone."""
    path = checkpoint_of("mixtral")
    text = tuple(chain(*prompts(40, seed=2)))
    asked = {"a": (text[:55], 2), "b": (text[60:80], 45), "c": (text[100:155], 2), "d": (text[200:290], 6)}
    wanted = {name: reference_greedy(path, [prompt], count)[0] for name, (prompt, count) in asked.items()}
    limits = AttentionConfig(kv_cache_tokens=56 + 64 + 56)
    engine, told = Engine.load(path, "float32", "cpu", LocalExperts(path, "float32", "cpu"), limits), []
    answers = {name: Answer(GenerationRequest(name, prompt, greedy(count))) for name, (prompt, count) in asked.items()}
    for answer in answers.values():
        engine.submit(answer.request, lambda event, answer=answer: (told.append(event), answer.take(event)))
    engine.start()
    try:
        assert {name: answer.wait().token_ids for name, answer in answers.items()} == wanted
    finally:
        engine.stop()
    ends = [event.request_id for event in told if event.finish_reason]
    assert ends == ["a", "c", "d", "b"], "d has not waited for b"


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
