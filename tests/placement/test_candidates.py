"""A plan is the best of several by modelled seconds: never slower than EPLB's, near the best there is where all can be
tried, and never slower than what is in force.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import pytest
from benchmarks.brain import figure_brute, figure_worst
from benchmarks.brain import parameters as p
from benchmarks.brain.cases import case

from moe_placement import Limits, Placement, RoutingStatistics, Topology, h100_nodes, one_host, simulate, solve
from moe_placement.baselines import eplb_global
from moe_placement.dispatch import copies_of
from moe_placement.simulation import judge, replay
from moe_placement.solver import solver
from moe_placement.solver.candidates import Job
from moe_placement.solver.constants import ERRORS
from moe_placement.solver.place import largest_copy
from moe_placement.solver.problem import (
    LayerProblem,
    Prices,
    dispatched,
    parts_of,
    seen_shares,
    sets_of_part,
    slowest_of,
    starts_in,
)
from moe_placement.solver.split import Search
from moe_placement.topology import Costs
from moe_placement.traces.generate import sample_sets


@pytest.mark.slow
@pytest.mark.parametrize("number", range(10))
def test_never_slower_than_eplb_on_the_traffic_planned_on(number: int) -> None:
    assert figure_worst.lost(case(number, most_experts=64)).seen <= 0


@pytest.mark.parametrize("tokens", [1000, 6000])
def test_never_slower_than_eplb_on_the_sample_that_it_is_judged_by(tokens: int) -> None:
    ids = sample_sets(np.random.default_rng(3).normal(size=64) + np.zeros((tokens, 64)), 4, np.random.default_rng(4))
    statistics, topology = RoutingStatistics.of_ids(ids[:, None], 64), h100_nodes(2, 4, 9)
    plan, sample = solve(statistics, topology), statistics.sample.ids
    ours, theirs = (simulate(sample, x, topology) for x in (plan.placement, eplb_global(statistics.load, topology)))
    assert plan.after == ours
    assert ours.seconds <= theirs.seconds


@pytest.mark.parametrize("load", [[8, 3, 11, 3, 11, 8, 6, 10], [10, 4, 15, 15, 1, 3, 3, 3]])
def test_eplb_is_a_candidate_as_others_make_it(load: list[int]) -> None:
    """Thirds of a load and thirds of its part of the whole are rounded apart: what is equally full differs then."""
    statistics, topology = RoutingStatistics.of_loads([load]), h100_nodes(2, 2, 3)
    job = Job.of(statistics, topology, None, Limits(), math.inf)
    assert job.eplb == eplb_global(statistics.load, topology)


@pytest.mark.slow
def test_near_the_best_of_all_placements() -> None:
    above = [figure_brute.above_best(figure_brute.small(p.SMALL_SEEDS[0], number)) for number in range(12)]
    assert np.mean(above) <= 0.02
    assert max(above) <= 0.10


def test_balance_is_not_bought_at_any_price() -> None:
    """Two pairs of experts, one chosen 2% more often: to tear them apart evens out loads and doubles the time."""
    ids = np.array([[[0, 1]]] * 1020 + [[[2, 3]]] * 980)
    plan = solve(RoutingStatistics.of_ids(ids, 4), Topology((0, 1), (2, 2)))
    assert {frozenset(plan.placement.slots[0, :2]), frozenset(plan.placement.slots[0, 2:])} == {
        frozenset({0, 1}), frozenset({2, 3}),
    }  # fmt: skip
    assert plan.after.seconds == pytest.approx(3.35e-3, rel=0.05)


@pytest.mark.parametrize("number", [0, 3, 17])
@pytest.mark.parametrize("budget", [0, 4, None])
def test_never_slower_than_what_is_in_force(number: int, budget: int | None) -> None:
    one = case(number, most_experts=64)
    statistics = RoutingStatistics.of_ids(one.seen, one.experts)
    current = eplb_global(statistics.load, one.topology)
    plan = solve(statistics, one.topology, current, Limits(max_moved_slots=budget))
    assert plan.before is not None and plan.after.seconds <= plan.before.seconds
    assert budget is None or plan.moved_slots <= budget


def test_from_scratch_within_the_budget_counts_as_well() -> None:
    """All experts are on one shard: what begins anew counts where moving is free."""
    random = np.random.default_rng(0)
    ids = random.random((1000, 1, 16)).argsort(axis=2)[:, :, :2]
    statistics, topology = RoutingStatistics.of_ids(ids, 16), h100_nodes(1, 4, 16)
    current = Placement.of([[*range(16)] + [-1] * 48], topology.shard_slots, 16)
    free = solve(statistics, topology, current)
    assert free.after.seconds <= simulate(ids, eplb_global(statistics.load, topology), topology).seconds * 1.01


def test_prices_follow_costs_and_topology() -> None:
    load = np.full(256, 1 / 256)
    several, single = (Prices.of(load, h100_nodes(nodes, 8, 9), 8) for nodes in (4, 1))
    assert single.surge == pytest.approx(9 * several.surge)  # 450 GB/s inside a node, 50 between nodes
    assert several.overload - several.surge == pytest.approx(3 * (1 - 0.75**8))  # what an overfull node is visited more
    slow = Prices.of(load, h100_nodes(4, 8, 9, Costs(network_bandwidth=25e9)), 8)
    assert slow.surge == pytest.approx(several.surge / 2)
    reading = Prices.of(load, h100_nodes(4, 8, 9, replace(Costs(), tokens_per_step=256)), 8)
    assert reading.overload > several.overload  # weights take longer to read than to multiply with
    assert Prices.of(load, one_host(4, 64), 8).overload > 0


@pytest.mark.parametrize(
    ("load", "slots", "shards", "least", "most"),
    [
        (np.ones(64), 72, 8, 0.125, 1.0),  # nothing is heavy: no copy is asked for
        (np.arange(1, 257) ** -0.5, 288, 32, 0.3, 0.5),  # seven median experts take more than half a shard
        (np.array([100.0] + [1e-6] * 15), 20, 4, 0.9, 1.0),  # what lies beside weighs nothing
        (np.array([8.0] * 4 + [4.0] * 4), 8, 4, 0.66, 1.0),  # no slots for further copies
        (np.array([90.0] * 2 + [1.0] * 2), 4, 4, 1.9, 2.2),  # nor for those that heavy experts need
    ],
)
def test_the_largest_copy_leaves_room_for_what_lies_beside_it(
    load: np.ndarray, slots: int, shards: int, least: float, most: float
) -> None:
    found = largest_copy(load, np.ones(len(load), dtype=np.int64), slots, shards)
    assert least <= found <= most
    assert np.maximum(np.ceil(load / (found * load.sum() / shards)), 1).sum() <= slots


def test_risk_is_what_the_slowest_of_the_shards_is_expected_to_be_at() -> None:
    assert [slowest_of(n) for n in (1, 2, 8, 16)] == pytest.approx([0, 0.564, 1.424, 1.766], abs=0.03)
    statistics, topology = RoutingStatistics.of_ids(case(0, 64).seen, case(0, 64).experts), h100_nodes(2, 4, 16)
    named = Limits(risk=slowest_of(8), shard_risk=slowest_of(4))
    assert solve(statistics, topology).placement == solve(statistics, topology, limits=named).placement


def test_copies_are_not_taken_to_share_evenly_where_dispatch_does_not() -> None:
    """Expert 0 is on both nodes, but all its tokens go to expert 1, which is on the first: so its load is there."""
    topology, masks = replace(h100_nodes(2, 1, 2), resident_tokens=False), np.array([0b11, 0b01, 0b10])
    sets = np.array([[0, 1]] * 500)
    split = parts_of(topology, 0, 2)
    served = seen_shares(sets, dispatched(sets, masks, split, topology), masks, 2)
    assert served[0] == pytest.approx([1, 0], abs=0.02)
    assert served[1:].tolist() == [[1, 0], [0, 1]]
    assert served.sum(axis=1) == pytest.approx(1)


def test_tokens_of_one_expert_count_in_what_a_part_of_a_part_carries() -> None:
    """Half of expert 0's tokens want expert 1 as well, which is beside one of its copies: the other gets the rest."""
    topology = replace(h100_nodes(8, 1, 2), resident_tokens=False)
    sets = np.array([[0, 1], [0, 2]] * 500)
    first, second = parts_of(topology, 0, 8), parts_of(topology, 0, 2)
    inside = sets_of_part(sets, dispatched(sets, np.array([0b01, 0b01, 0b10]), first, topology), 0)
    masks = np.array([0b11, 0b01, 0])
    served = seen_shares(inside, dispatched(inside, masks, second, topology), masks, 2)
    assert served[0] == pytest.approx([0.5, 0.5], abs=0.02)


def test_below_the_first_level_tokens_start_elsewhere() -> None:
    """So those of expert 0, which is in both parts, visit the one that they go to for expert 1, and no other."""
    topology, sets, masks = h100_nodes(8, 1, 2), np.array([[0, 1]] * 500), np.array([0b11, 0b01])
    found = dispatched(sets, masks, parts_of(topology, 0, 2), topology)
    assert (found == 0).all()


def test_tokens_start_in_the_parts_of_the_nodes_that_are_named() -> None:
    """Two processes on node 2, one on node 7 and one beside no shard; parts are two nodes each, then one each."""
    topology = replace(h100_nodes(8, 2, 2), resident_tokens=False, token_nodes=(2, 2, 7, -1))
    assert starts_in(topology, parts_of(topology, 0, 8)).tolist() == [0, 0.5, 0, 0.25]
    assert starts_in(topology, parts_of(topology, 2, 4)).tolist() == [0.5, 0]
    assert starts_in(replace(topology, token_nodes=()), parts_of(topology, 0, 8)).tolist() == [0] * 4
    one = replace(h100_nodes(1, 4, 2), resident_tokens=False, token_nodes=(0,))
    assert starts_in(one, parts_of(one, 0, 4)).tolist() == [0] * 4, "shards of one node: none of them is at home"
    # Expert 0 is in both parts: where a token starts, it stays.
    sets, masks = np.array([[0]] * 400), np.array([0b11])
    two = replace(h100_nodes(2, 1, 2), resident_tokens=False, token_nodes=(1, 1, 1, -1))
    found = dispatched(sets, masks, parts_of(two, 0, 2), two).ravel()
    assert (found.reshape(100, 4)[:, :3] == 1).all()


def test_a_search_among_some_of_all_parts_leaves_out_what_cannot_be_torn_apart() -> None:
    sets, one, none = np.array([[0, 1], [0, -1], [1, 2]]), np.ones(3, dtype=np.int64), np.zeros((3, 5), dtype=np.int64)
    topology, slots = h100_nodes(8, 1, 2), np.full(4, 2)
    problem = LayerProblem(
        one / 3, sets, np.zeros((3, 3), dtype=np.float32), one, 0 * one, False, 0, Prices(1.0, 1.0), 3
    )
    for end, left in ((8, 3), (2, 2)):
        parts = parts_of(topology, 0, end)
        count = len(parts.shards)
        search = Search.of(problem, topology, parts, slots[:count], none[:, : count + 1], one)
        assert len(search.goal.tokens.sets) == left


@pytest.mark.parametrize("nodes", [4, 1])
def test_the_margin_is_what_chance_makes_of_the_vectors_that_come_to_a_node(nodes: int) -> None:
    """Two standard errors, as they are found by drawing the tokens again; each brings a node one vector or none."""
    topology, tokens = replace(h100_nodes(nodes, 8 // nodes, 9), resident_tokens=False), 250
    ids = [sample_sets(np.zeros((tokens, 64)), 8, np.random.default_rng(seed)) for seed in range(200)]
    job = Job.of(RoutingStatistics.of_ids(ids[0][:, None], 64), topology, None, Limits(), math.inf)
    copies = copies_of(job.eplb.held_in(0), topology)
    replays = [replay(each, copies, topology, 64)[0] for each in ids]
    came = np.array([traffic.node_in if nodes > 1 else traffic.visits for traffic in replays]) / tokens
    costs = topology.costs
    bandwidth = costs.network_bandwidth * 8 / nodes if nodes > 1 else costs.link_bandwidth
    of_one = costs.tokens_per_step * (costs.dispatch_bytes + costs.combine_bytes) / bandwidth
    figures = judge(ids[0], copies, topology, 64)
    assert job._margin(figures) == pytest.approx(ERRORS * came.std(axis=0).mean() * of_one / figures.seconds, rel=0.25)


def test_the_first_plan_says_that_it_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moe_placement.kernel_cache.kernel_directory", lambda: tmp_path)
    solve(RoutingStatistics(1, 4, 2), one_host(2, 2))
    monkeypatch.setattr(solver, "_solve", MagicMock())
    with caplog.at_level(logging.WARNING):
        solver.compile_kernels.__wrapped__()
    assert f"compiling the solver's inner loops: a minute or two, once; they are kept in {tmp_path}" in caplog.text
