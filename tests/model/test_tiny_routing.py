"""What rebalancing feeds on: texts of one domain use the same experts, texts of different domains others."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from training.evaluate import Measurement, load_distance, measure
from transformers import PreTrainedTokenizerFast, Qwen3MoeForCausalLM

DOMAINS = ("python", "c", "english", "german", "french")
PASSAGES = Path(__file__).parent / "passages"  # written for this test, so in nobody's training text


@pytest.fixture(scope="module")
def measured(model: Qwen3MoeForCausalLM, tokenizer: PreTrainedTokenizerFast) -> dict[tuple[str, int], Measurement]:
    def passage(domain: str, number: int) -> Measurement:
        text = (PASSAGES / f"{domain}-{number}.txt").read_text(encoding="utf-8")
        return measure(model, tokenizer, tokenizer(text, return_tensors="pt")["input_ids"])

    return {(domain, number): passage(domain, number) for domain in DOMAINS for number in (1, 2)}


def test_the_model_has_learnt_every_domain(measured: dict[tuple[str, int], Measurement]) -> None:
    # An untrained model is at ln 4096 = 8.3 nats.
    assert {name: m.loss for name, m in measured.items() if m.loss > 5.0} == {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_passages_of_a_domain_are_nearer_than_those_of_others(
    measured: dict[tuple[str, int], Measurement], domain: str
) -> None:
    same = load_distance(measured[domain, 1].load, measured[domain, 2].load)
    others = {
        other: min(load_distance(measured[domain, i].load, measured[other, j].load) for i in (1, 2) for j in (1, 2))
        for other in DOMAINS
        if other != domain
    }
    assert same < min(others.values()), others


def test_domains_lie_far_apart(measured: dict[tuple[str, int], Measurement]) -> None:
    loads = {d: np.mean([measured[d, 1].load, measured[d, 2].load], axis=0) for d in DOMAINS}
    distances = {(a, b): load_distance(loads[a], loads[b]) for a, b in combinations(DOMAINS, 2)}
    assert np.mean(list(distances.values())) > 0.3, distances


def test_no_expert_is_dead(measured: dict[tuple[str, int], Measurement]) -> None:
    everything = np.mean([m.load for m in measured.values()], axis=0)
    assert everything.min() > 0
