"""Shards that hold nothing which can be read: from topology to figures, plan, decision and words."""

from dataclasses import replace

import numpy as np
import pytest

from moe_placement import (
    Limits,
    MismatchError,
    Placement,
    Plan,
    RoutingStatistics,
    Topology,
    balanced_placement,
    decide,
    explain,
    h100_nodes,
    one_host,
    plan_migration,
    simulate,
    solve,
)
from moe_placement.expected import figures_on
from moe_placement.migration import CHECKPOINT

ONE_COPY = balanced_placement(2, 16, (4, 4, 4, 4))
TOPOLOGY = h100_nodes(2, 2, 12)


def seen(seed: int = 0) -> RoutingStatistics:
    random = np.random.default_rng(seed)
    return RoutingStatistics.of_ids(random.permuted(np.tile(np.arange(16), (800, 2, 1)), axis=2)[:, :, :2], 16)


def plan_around(dead: tuple[int, ...], current: Placement = ONE_COPY, **limits: int) -> Plan:
    return solve(seen(), replace(TOPOLOGY, dead=dead), current, Limits(workers=1, **limits))


def test_what_only_a_dead_shard_held_is_read_from_the_checkpoint() -> None:
    plan = plan_around((1,))
    assert not plan.placement.held[:, :, 1].any()
    assert (plan.placement.copies >= 1).all()
    migration = plan_migration(ONE_COPY, plan.placement, plan.topology)
    copies = [copy for step in migration.rounds for copy in step.transfers]
    lost = {(int(layer), int(expert)) for layer, expert in np.argwhere(ONE_COPY.held[:, :, 1])}
    assert {(copy.layer, copy.expert) for copy in copies if copy.source == CHECKPOINT} >= lost
    assert all(copy.source != 1 for copy in copies)
    assert migration.losses.unserved == len(lost) == 8
    decision = decide(plan, migration, [seen(1)], horizon=0)
    assert decision.accepted
    assert "dead shards (1)" in decision.reasons[0]


@pytest.mark.slow
def test_the_explanation_says_what_is_lost_and_where_it_comes_from() -> None:
    plan = plan_around((1,))
    explained = explain(plan, seen(), plan_migration(ONE_COPY, plan.placement, plan.topology))
    assert "dead shards (1), shards without slots" in explained.text
    assert "shard 1 is dead: 8 copies are lost, and 8 experts have no other" in explained.text
    assert "transfers are read from the checkpoint" in explained.text
    reasons = {move.reason for move in explained.moves}
    assert "only dead shards held it (1): it is read from the checkpoint" in reasons
    drained = solve(seen(), TOPOLOGY.with_slots((12, 0, 12, 12)), ONE_COPY, Limits(workers=1))
    words = explain(drained, seen(), plan_migration(ONE_COPY, drained.placement, drained.topology))
    assert "dead" not in words.text
    assert "checkpoint" not in words.text
    first = solve(seen(), plan.topology, limits=Limits(workers=1))
    assert explain(first, seen()).text.startswith("A first placement of 16 experts x 2 layers on 4 shards (1 dead): ")


def test_lost_copies_do_not_count_towards_min_copies() -> None:
    twice = balanced_placement(2, 16, (8, 8, 8, 8), min_copies=2)
    plan = plan_around((1,), twice, min_copies=2)
    assert (plan.placement.held[:, :, [0, 2, 3]].sum(axis=2) >= 2).all()
    explained = explain(plan, seen(), plan_migration(twice, plan.placement, plan.topology))
    assert "experts have no other" not in explained.text
    assert any("copies on dead shards (1) are lost" in move.reason for move in explained.moves)


def test_copies_on_dead_shards_serve_nobody() -> None:
    placement = Placement.of([[0, 1, 0, 1]], [2, 2], 2)
    ids = np.tile([[[0, 1]]], (10, 1, 1))
    topology = one_host(2, 2)
    assert 0 < simulate(ids, placement, topology).shard_balance <= 1
    alone = simulate(ids, placement, replace(topology, dead=(0,)))
    assert (alone.fan_out, alone.shard_balance) == (1, 1)
    for statistics in (RoutingStatistics.of_ids(ids, 2), RoutingStatistics.of_loads([[1, 1]], 2)):
        half, whole = (figures_on(statistics, placement, replace(topology, dead=dead)) for dead in ((1,), ()))
        assert half.seconds > whole.seconds


def test_an_expert_that_nothing_serves_cannot_be_judged() -> None:
    placement = Placement.of([[0, 1], [1, 0]], [1, 1], 2)
    topology = replace(one_host(2, 1), dead=(1,))
    message = r"layer 0: expert 1 is on dead shards only \(1 such experts in the layer; dead are 1\)"
    with pytest.raises(MismatchError, match=message):
        simulate(np.zeros((1, 2, 1), dtype=int), placement, topology)
    with pytest.raises(MismatchError, match=message):
        figures_on(RoutingStatistics.of_loads(np.ones((2, 2))), placement, topology)


def test_no_token_starts_on_a_dead_shard() -> None:
    placement = Placement.of([[0, 1, 0, 1]], [2, 0, 2, 0], 2)
    topology = Topology((0, 1, 2, 3), (2, 2, 2, 2))
    ids = np.zeros((8, 1, 1), dtype=int)
    assert simulate(ids, placement, topology).node_fan_out == 0.5  # those of shards 1 and 3 visit another node
    assert simulate(ids, placement, replace(topology, dead=(1, 3))).node_fan_out == 0
