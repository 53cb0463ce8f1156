"""A plan is the best of several by modelled seconds: never slower than EPLB's, near the best there is where all can be
tried, and never slower than what is in force.
"""

import logging
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
from moe_placement.solver import solver
from moe_placement.solver.place import largest_copy
from moe_placement.solver.problem import Prices
from moe_placement.topology import Costs


@pytest.mark.parametrize("number", range(10))
def test_never_slower_than_eplb_on_the_traffic_planned_on(number: int) -> None:
    assert figure_worst.lost(case(number, most_experts=64)).seen <= 0


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


def test_the_first_plan_says_that_it_compiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("moe_placement.kernel_cache.kernel_directory", lambda: tmp_path)
    solve(RoutingStatistics(1, 4, 2), one_host(2, 2))
    monkeypatch.setattr(solver, "_solve", MagicMock())
    with caplog.at_level(logging.WARNING):
        solver._compile.__wrapped__()
    assert f"compiling the solver's inner loops: a minute or two, once; they are kept in {tmp_path}" in caplog.text
