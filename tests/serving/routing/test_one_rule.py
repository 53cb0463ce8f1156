"""The simulator foretells what the data plane measures: one rule of choice, one definition of each figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from fake_shards import FakeFabric, FakeShard, table_of
from linked import wait_linked

from moe_placement import Topology, balanced_placement, simulate
from moe_placement.dispatch import WINDOW
from moe_placement.traces import read_trace
from moe_serving.directory.traffic import TrafficCounts
from moe_serving.routing.client import RemoteExperts

TRACE = Path(__file__).parents[3] / "traces" / "tiny-16x2.npz"


@pytest.mark.parametrize(
    ("nodes", "homes"),
    [
        ("aaaa", "x"),  # all shards on one node, attention on another
        ("aaaa", "a"),
        ("aabb", "x"),
        ("aabb", "b"),
        ("abac", "a"),
        ("abac", "bxb"),  # three attention replicas, two of them beside a shard
    ],
)
@pytest.mark.parametrize(("step", "tokens"), [(1, 100), (64, WINDOW + 500)])
def test_figures_are_those_of_the_simulator(nodes: str, homes: str, step: int, tokens: int) -> None:
    trace, names = read_trace(TRACE), sorted(set(nodes))
    ids = trace.ids[:: len(trace.ids) // tokens][:tokens]
    topology = Topology(
        tuple(map(names.index, nodes)), (8,) * 4, resident_tokens=False, token_nodes=tuple(map("abc".find, homes))
    )
    placement = balanced_placement(ids.shape[1], trace.experts, topology.shard_slots, 2)
    table = table_of(placement.held, nodes=nodes)
    counts = TrafficCounts(placement.layers, placement.experts)
    for replica, home in enumerate(homes):
        shards = [FakeShard(set(range(trace.experts))) for _ in nodes]
        experts = RemoteExperts(placement.layers, placement.experts, FakeFabric(shards), home)
        experts.update(table)
        wait_linked(experts)
        asked = torch.from_numpy(ids[replica :: len(homes)].astype(np.int64))
        for number, begin in enumerate(range(0, len(asked), step)):
            of_step = asked[begin : begin + step]
            gates = torch.ones(len(of_step), trace.ids.shape[2])
            for layer in range(placement.layers):
                experts.forward(layer, torch.ones(len(of_step), 2), of_step[:, layer], gates)
            if number % 20 == 0:
                counts.add(str(replica), number, experts.take_windows(), now=0.0)
        counts.add(str(replica), tokens, experts.take_windows(), now=0.0)
    (measured,) = counts.report("directory").epochs
    predicted = simulate(ids, placement, topology)
    assert (measured.rows, measured.pairs) == (tokens, ids.size)
    assert measured.fan_out == pytest.approx(predicted.fan_out)
    assert measured.node_fan_out == pytest.approx(predicted.node_fan_out)
    assert measured.shard_balance == pytest.approx(predicted.shard_balance)
    assert measured.node_balance == pytest.approx(predicted.node_balance)
    assert (counts.load == [np.bincount(layer.ravel(), minlength=trace.experts) for layer in ids.swapaxes(0, 1)]).all()
