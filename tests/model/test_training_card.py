"""The model card states what was measured."""

import numpy as np
import pytest
from training.card import Facts, hot_experts, render_card
from training.corpus import DOMAINS, Document, Split
from training.evaluate import DomainMeasurement, Measurement, load_distance
from training.samples import Sample
from training.train import Progress, Schedule
from transformers import Qwen3MoeConfig


def test_hot_experts_are_the_busiest_first_and_ties_go_to_the_lower_id() -> None:
    load = np.array([[0.1, 0.5, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]])
    assert hot_experts(load, 2) == [[(1, 0.5), (2, 0.2)], [(0, 0.25), (1, 0.25)]]


def test_load_distance_is_total_variation() -> None:
    left, right = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert load_distance(left, right) == pytest.approx(0.5)
    assert load_distance(left, left) == 0


def test_measurements_add_up() -> None:
    halves = [Measurement(100, 300, 200.0, np.array([[150, 50]])), Measurement(300, 900, 1000.0, np.array([[0, 600]]))]
    whole = halves[0] + halves[1]
    assert (whole.loss, whole.load.tolist()) == (3.0, [[0.1875, 0.8125]])


def test_the_card_shows_data_losses_and_experts() -> None:
    python = Measurement(tokens=1000, text_bytes=4000, nats=3500.0, pairs=np.array([[700, 300], [400, 600]]))
    c = Measurement(tokens=2000, text_bytes=5000, nats=5000.0, pairs=python.pairs[::-1] * 2)
    split = Split((Document("a", "x" * 2_000_000),), (Document("b", "y" * 500_000),))
    card = render_card(
        Facts(
            config=Qwen3MoeConfig(num_hidden_layers=2, num_experts=2, num_experts_per_tok=1),
            parameters=11_500_000,
            active_parameters=4_000_000,
            stored_bytes=23_000_000,
            schedule=Schedule(),
            progress=Progress(2200, cpu_seconds=1800, wall_seconds=960),
            threads=2,
            corpus={domain.name: split for domain in DOMAINS},
            corpus_digest="abc123",
            domains={
                "python": DomainMeasurement(python, 0.03),
                "c": DomainMeasurement(c, 0.04),
            },
            samples=[Sample("chat", "What is ls?", "ls - list", ended=True)],
        )
    )
    assert "| python | 1,000 | 3.500 | 33.1 | 1.262 |" in card
    assert "| python | 0 (70%), 1 (30%) | 1 (60%), 0 (40%) |" in card
    assert "| python | *0.03* | 0.30 |" in card
    assert "It took 30 CPU minutes" in " ".join(card.split())
    assert "`abc123`" in card
    assert "What is ls?⟫ls - list<end>" in card
