"""Whole shards that hold experts as FP8, asked over sockets with packed rows, one of which dies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from cluster import LocalCluster

from moe_serving.engine.local_experts import LocalExperts

LAYER, ROWS, TOP_K = 1, 9, 3


def test_answers_are_nearly_the_models_and_go_on_when_a_shard_dies(checkpoint_of: Callable[[str], Path]) -> None:
    path = checkpoint_of("mixtral")
    generator = torch.Generator().manual_seed(0)
    with LocalCluster.start(path, 2, weights="FP8") as cluster, torch.inference_mode():
        facts = cluster.facts
        cluster.place(2, 2)
        hidden = torch.randn(ROWS, 64, generator=generator)
        ids = torch.stack([torch.randperm(facts.experts, generator=generator)[:TOP_K] for _ in range(ROWS)])
        asked = LAYER, hidden, ids, torch.rand(ROWS, TOP_K, generator=generator)
        exact = LocalExperts(path, "float32", "cpu").forward(*asked)
        client = cluster.client()
        weights_only = client.forward(*asked)
        client.pack(True)
        for dies in (False, True):
            if dies:
                cluster.kill(0)
            both = client.forward(*asked)
            assert 1e-4 < float((both - exact).norm() / exact.norm()) < 0.1
            assert not torch.equal(both, weights_only)
        assert 1e-4 < float((weights_only - exact).norm() / exact.norm()) < 0.1
        held = facts.layers * facts.experts * facts.bytes_per_expert
        assert cluster.report().shards[1].from_checkpoint + cluster.report().shards[1].from_peers == held
