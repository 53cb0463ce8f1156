"""The repetition penalty is transformers' own, at temperature 0 as well, alone and in a crowd."""

import pytest
import torch
from driver import ask, complete, running_engine
from reference import prompts, reference_model
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

from moe_serving.engine.penalty import RepetitionPenalty
from moe_serving.engine.request import GenerationRequest, Sampling
from moe_serving.engine.sequence import Sequence

VOCABULARY = 50


def sequence(prompt, penalty, answer=()):
    made = Sequence(GenerationRequest("r", tuple(prompt), Sampling(max_tokens=9, repetition_penalty=penalty)))
    made.token_ids += answer
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("penalty", [0.5, 1.05, 3.0])
def test_it_is_transformers_processor(penalty, dtype):
    logits = (torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(0)) * 5).to(dtype)
    rows = [sequence([1, 2, 2], penalty), sequence([5], 1.0), sequence(range(40), penalty, [41, 2])]
    ours = RepetitionPenalty(VOCABULARY, torch.device("cpu"))
    for row, other in ((0, 1), (2, 1)):
        found = ours.apply(logits, rows)
        wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([rows[row].token_ids]), logits[[row]].float())
        assert torch.equal(found[row], wanted[0])
        assert torch.equal(found[other], logits[other].float())
    rows[0].token_ids += [7, 8]
    wanted = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([rows[0].token_ids]), logits[[0]].float())
    assert torch.equal(ours.apply(logits, rows)[0], wanted[0]), "tokens that came since the last step count too"


def test_nothing_is_copied_for_those_who_do_not_ask():
    logits = torch.zeros(1, VOCABULARY)
    assert RepetitionPenalty(VOCABULARY, torch.device("cpu")).apply(logits, [sequence([1], 1.0)]) is logits


def test_greedy_answers_are_those_that_transformers_generates(checkpoint_of):
    path = checkpoint_of("qwen3_moe")
    model = reference_model(path)
    asked = prompts(6, seed=3)
    with running_engine(path) as engine:
        how = Sampling(max_tokens=24, repetition_penalty=1.3, ignore_eos=True)
        plain = Sampling(max_tokens=24, ignore_eos=True)
        beside = [ask(engine, prompt, plain) for prompt in asked[:2]]
        answers = complete(engine, asked, how)
        different = [other.wait().token_ids for other in beside] != answers[:2]
    assert different, "the penalty changes these answers, so the comparison has teeth"
    for prompt, answer in zip(asked, answers, strict=True):
        with torch.inference_mode():
            wanted = model.generate(
                torch.tensor([prompt]), max_new_tokens=24, do_sample=False, repetition_penalty=1.3, eos_token_id=None
            )
        assert answer == tuple(wanted[0, len(prompt) :].tolist())
