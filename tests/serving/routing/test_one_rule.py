"""The simulator foretells what the data plane does: both ask the brain which copy a token goes to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_shards import FakeFabric, FakeShard, table_of
from linked import wait_linked

from moe_placement import Topology, balanced_placement
from moe_placement.dispatch import WINDOW, layer_copies
from moe_placement.simulation import replay
from moe_placement.traces import read_trace
from moe_serving.routing.client import RemoteExperts

TRACE = Path(__file__).parents[3] / "traces" / "tiny-16x2.npz"
LAYER = 1


@pytest.mark.parametrize("nodes", [("a", "a", "a", "a"), ("a", "a", "b", "b"), ("a", "b", "a", "b")])
@pytest.mark.parametrize(("step", "tokens"), [(1, 500), (64, WINDOW + 500)])
def test_fan_out_and_load_are_those_of_the_simulator(nodes: Sequence[str], step: int, tokens: int) -> None:
    trace = read_trace(TRACE)
    ids = trace.ids[:: len(trace.ids) // tokens][:tokens]
    topology = Topology(tuple(sorted(set(nodes)).index(node) for node in nodes), (8,) * 4, resident_tokens=False)
    placement = balanced_placement(ids.shape[1], trace.experts, topology.shard_slots, 2)
    shards = [FakeShard(set(range(trace.experts))) for _ in nodes]
    experts = RemoteExperts(placement.layers, placement.experts, FakeFabric(shards), "elsewhere")
    experts.update(table_of(placement.held, nodes=nodes))
    wait_linked(experts)
    asked = torch.from_numpy(ids[:, LAYER].astype(np.int64))
    for begin in range(0, tokens, step):
        of_step = asked[begin : begin + step]
        experts.forward(LAYER, torch.ones(len(of_step), 2), of_step, torch.ones(of_step.shape))
    counters = experts.take_counters()
    traffic, fan_out, _ = replay(ids[:, LAYER], layer_copies(placement, topology, LAYER), topology, placement.experts)
    load = traffic.per_shard(traffic.copy_load)
    assert counters.tokens == tokens
    assert counters.visits / tokens == fan_out
    assert [counters.pairs[shard] for shard in range(4)] == load.tolist()
    assert load.max() / load.mean() < 1.2
