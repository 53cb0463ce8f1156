"""The solver: limits always kept, never worse than what is, and better than load balancing where there is structure."""

import math
import re
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from moe_placement import (
    InfeasiblePlacementError,
    Limits,
    MismatchError,
    Placement,
    RoutingStatistics,
    Topology,
    balanced_placement,
    h100_nodes,
    one_host,
    simulate,
    solve,
)
from moe_placement.baselines import eplb_global
from moe_placement.solver import candidates, solver
from moe_placement.solver.level import copies_in, level
from moe_placement.traces import Traffic, generate_trace, split_by_prompt

STRUCTURED = Traffic(tokens=4096, layers=2, experts=32, top_k=4, communities=4, affinity=2.0)


def statistics(seed: int = 0) -> RoutingStatistics:
    return RoutingStatistics.of_ids(generate_trace(STRUCTURED, seed).ids, 32, capacity=1024)


@pytest.mark.slow
def test_affinity_is_found_and_holds_on_unseen_prompts() -> None:
    seen, unseen = split_by_prompt(generate_trace(STRUCTURED))
    topology = h100_nodes(4, 2, 5)
    known = RoutingStatistics.of_ids(seen.ids, 32, capacity=1024)
    theirs = simulate(unseen.ids, eplb_global(known.load, topology), topology)
    for limits in (Limits(), Limits(risk=0.0)):
        ours = simulate(unseen.ids, solve(known, topology, limits=limits).placement, topology)
        assert ours.node_fan_out < 0.9 * theirs.node_fan_out
        assert ours.seconds < theirs.seconds


def test_what_surges_together_is_kept_apart() -> None:
    """A few dozen prompts tell little of other ones; more experts than are placed by modelled seconds alone."""
    topology, traffic = h100_nodes(4, 2, 9), replace(STRUCTURED, tokens=8192, experts=64, communities=8)
    balance = np.zeros(2)
    for seed in range(2):
        seen, unseen = split_by_prompt(generate_trace(traffic, seed), seed=seed)
        known = RoutingStatistics.of_ids(seen.ids, 64, capacity=1024)
        for careful in range(2):
            plan = solve(known, topology, limits=Limits(risk=None if careful else 0.0))
            balance[careful] += simulate(unseen.ids, plan.placement, topology).node_balance
    assert balance[1] > balance[0]


@pytest.mark.slow
def test_equal_inputs_give_equal_plans_whatever_the_threads() -> None:
    topology = h100_nodes(2, 2, 9)
    first, second = (solve(statistics(), topology, limits=Limits(workers=n)).placement for n in (1, 3))
    assert first == second


@pytest.mark.parametrize("sigma", [0.0, 1.0, 1.5])
def test_loads_alone_are_balanced(sigma: float) -> None:
    load = np.exp(sigma * np.random.default_rng(1).normal(size=(3, 64)))
    plan = solve(RoutingStatistics.of_loads(load), h100_nodes(2, 4, 9))
    assert plan.after.shard_balance > 0.99
    assert plan.after.node_fan_out == 0


def test_no_traffic_gives_a_balanced_placement() -> None:
    plan = solve(RoutingStatistics(2, 16, 2), one_host(4, 4))
    assert plan.after.shard_balance == pytest.approx(1)
    assert (plan.placement.held.sum(axis=1) == 4).all()


@pytest.mark.slow
@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(1, 4), st.integers(1, 2), st.integers(0, 3), st.booleans())
@settings(max_examples=15)
def test_limits_are_kept(seed: int, nodes: int, gpus: int, copies: int, extra: int, sampled: bool) -> None:
    copies = min(copies, nodes * gpus)
    topology = h100_nodes(nodes, gpus, -(-16 * copies // (nodes * gpus)) + extra)
    traffic = Traffic(tokens=200, layers=2, experts=16, top_k=2, communities=3)
    known = RoutingStatistics.of_ids(generate_trace(traffic, seed).ids, 16, capacity=100 if sampled else 0)
    placement = solve(known, topology, limits=Limits(min_copies=copies)).placement
    assert (placement.copies >= copies).all()
    assert (placement.held.sum(axis=1) <= topology.slots).all()
    again = solve(known, topology, placement, Limits(min_copies=copies, max_moved_slots=3))
    assert again.moved_slots <= 3
    assert again.before is not None and again.after.seconds <= again.before.seconds
    assert (again.placement.copies >= copies).all()


def test_what_does_not_move_keeps_its_slot() -> None:
    topology = h100_nodes(2, 2, 9)
    current = balanced_placement(2, 32, topology.shard_slots)
    plan = solve(statistics(), topology, current, Limits(max_moved_slots=6))
    changed = (plan.placement.slots != current.slots) & (plan.placement.slots >= 0)
    assert 0 < changed.sum() == plan.moved_slots <= 6


def test_a_byte_limit_counts_as_moves() -> None:
    topology = h100_nodes(2, 2, 9)
    current = balanced_placement(2, 32, topology.shard_slots)
    size = topology.costs.bytes_per_expert
    plan = solve(statistics(), topology, current, Limits(max_moved_bytes=4.9 * size))
    assert plan.moved_bytes <= 4 * size


def test_a_drained_shard_ends_empty_and_its_experts_live_on() -> None:
    topology = h100_nodes(2, 2, 16)
    current = balanced_placement(2, 32, topology.shard_slots)
    plan = solve(statistics(), topology.with_slots([16, 16, 16, 0]), current, Limits(max_moved_slots=40))
    assert not plan.placement.held[:, :, 3].any()
    assert (plan.placement.copies >= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [5, 7, 9, 10, 13])
def test_any_number_of_nodes_with_slots_to_spare_in_some(nodes: int) -> None:
    """Nodes are split in groups, and a group may get no expert at all."""
    random = np.random.default_rng(0)
    ids = np.argsort(random.random((300, 1, 20)), axis=2)[:, :, :2]
    placement = solve(RoutingStatistics.of_ids(ids, 20, seed=0), h100_nodes(nodes, 1, 4)).placement
    assert (placement.copies >= 1).all()


def test_an_added_shard_is_used() -> None:
    current = balanced_placement(2, 32, [16, 16])
    plan = solve(statistics(), one_host(3, 16), current)
    assert plan.placement.held[:, :, 2].any()


def test_a_faster_shard_carries_more() -> None:
    topology = Topology((0, 0), (48, 48), shard_speed=(3.0, 1.0), resident_tokens=False)
    load = np.ones((1, 64))
    held = solve(RoutingStatistics.of_loads(load), topology).placement
    share = (held.held[0] / held.copies[0][:, None]).sum(axis=0) / 64
    assert share[0] > 0.6


def test_copies_go_to_nodes_of_their_own() -> None:
    topology = h100_nodes(2, 2, 16)
    placement = solve(statistics(), topology, limits=Limits(min_copies=2)).placement
    at_node = placement.held.reshape(2, 32, 2, 2).any(axis=3)
    assert at_node.all()


@pytest.mark.parametrize(
    "size", [(1, 8, 9), (2, 4, 9), (5, 2, 9), (8, 2, 9), (16, 2, 4)], ids=lambda size: "x".join(map(str, size))
)
def test_a_shift_is_followed_from_a_current_placement_on_any_number_of_nodes(size: tuple[int, int, int]) -> None:
    """Groups of nodes are split in turn, and experts come into groups where they had no copy."""
    traffic = Traffic(tokens=3000, layers=2, experts=64, top_k=4)
    before, after = (RoutingStatistics.of_ids(generate_trace(traffic, seed).ids, 64) for seed in (1, 2))
    topology = h100_nodes(*size)
    current, anew = solve(before, topology).placement, solve(after, topology).after.seconds
    some = solve(after, topology, current, Limits(max_moved_slots=50))
    free = solve(after, topology, current)
    assert some.before is not None and free.before is not None
    assert some.moved_slots <= 50
    assert some.after.seconds < 0.95 * some.before.seconds
    for layer, figures in enumerate(free.after.by_layer):
        assert figures.seconds < free.before.by_layer[layer].seconds
    assert free.before.seconds - free.after.seconds > 0.95 * (free.before.seconds - anew), "as far as from scratch"


def on_nodes(placement: Placement, topology: Topology) -> NDArray[np.int64]:
    """int64 ``[layers, experts]``: nodes that each expert has copies on."""
    at = [placement.held[:, :, topology.node_index == node].any(axis=2) for node in range(topology.nodes)]
    return np.asarray(np.sum(at, axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("sampled", [True, False])
def test_copies_go_to_nodes_of_their_own_after_a_node_is_lost(sampled: bool) -> None:
    known = statistics() if sampled else RoutingStatistics.of_loads(statistics().load, 4)
    topology, limits = h100_nodes(4, 2, 12), Limits(min_copies=2)
    current = solve(known, topology, limits=limits).placement
    left = topology.with_slots([12] * 6 + [0] * 2)
    assert (on_nodes(solve(known, left, current, limits).placement, left) >= 2).all()


def test_more_copies_asked_for_later_go_to_nodes_of_their_own() -> None:
    topology = h100_nodes(4, 2, 12)
    known = RoutingStatistics.of_loads(statistics().load, 4)
    current = solve(known, topology).placement
    plan = solve(known, topology, current, Limits(min_copies=2))
    assert (on_nodes(plan.placement, topology) >= 2).all()
    few = solve(known, topology, current, Limits(min_copies=2, max_moved_slots=20))
    assert few.moved_slots <= 20


def test_unequal_speeds_leave_copies_on_nodes_of_their_own() -> None:
    topology = Topology((0, 0, 1, 1, 2, 2), (12,) * 6, (1, 1, 1, 1, 1, 0.5))
    known = RoutingStatistics.of_loads(statistics().load, 4)
    assert (on_nodes(solve(known, topology, limits=Limits(min_copies=2)).placement, topology) >= 2).all()


def test_a_node_may_go_where_experts_stay_on_theirs() -> None:
    load = np.random.default_rng(0).random((1, 16))
    topology, limits = h100_nodes(3, 2, 8), Limits(node_locality=True)
    current = solve(RoutingStatistics.of_loads(load, 2), topology, limits=limits).placement
    left = topology.with_slots([8, 8, 8, 8, 0, 0])
    plan = solve(RoutingStatistics.of_loads(load, 2), left, current, limits)
    assert (plan.placement.copies >= 1).all()
    assert not plan.placement.held[:, :, 4:].any()


def test_node_locality_keeps_an_expert_on_one_node() -> None:
    load = np.exp(np.random.default_rng(2).normal(size=(2, 64)))
    placement = solve(
        RoutingStatistics.of_loads(load), h100_nodes(2, 4, 9), limits=Limits(node_locality=True)
    ).placement
    assert (placement.held.reshape(2, 64, 2, 4).any(axis=3).sum(axis=2) == 1).all()


def test_node_locality_holds_when_loads_drift() -> None:
    random = np.random.default_rng(2)
    topology, limits = h100_nodes(2, 4, 9), Limits(node_locality=True, max_moved_slots=20)
    load = np.exp(random.normal(size=(2, 64)))
    placement = solve(RoutingStatistics.of_loads(load), topology, limits=limits).placement
    for _ in range(5):
        load *= np.exp(0.5 * random.normal(size=load.shape))
        plan = solve(RoutingStatistics.of_loads(load), topology, placement, limits)
        assert plan.before is not None and plan.after.seconds <= plan.before.seconds
        placement = plan.placement
    assert (placement.held.reshape(2, 64, 2, 4).any(axis=3).sum(axis=2) == 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_copies_stay_on_nodes_of_their_own_when_loads_drift(seed: int) -> None:
    random = np.random.default_rng(seed)
    topology, limits = h100_nodes(4, 2, 9), Limits(min_copies=2, max_moved_slots=40)
    load = np.exp(random.normal(size=(2, 32)))
    placement = solve(RoutingStatistics.of_loads(load), topology, limits=limits).placement
    for _ in range(4):
        load *= np.exp(0.7 * random.normal(size=load.shape))
        placement = solve(RoutingStatistics.of_loads(load), topology, placement, limits).placement
        assert (placement.held.reshape(2, 32, 4, 2).any(axis=3).sum(axis=2) >= 2).all()


def test_a_shard_that_shrinks_costs_no_more_moves_than_it_must() -> None:
    current = Placement.of([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 4, 5, 8, 9]], [4, 4, 4, 4], 12)
    topology = one_host(4, 4).with_slots([3, 4, 4, 4])
    plan = solve(RoutingStatistics.of_loads(np.ones((1, 12))), topology, current, Limits(max_moved_slots=1))
    assert int((plan.placement.held & ~current.held).sum()) == 1
    assert (plan.placement.copies >= 1).all()


def test_a_time_limit_still_gives_a_plan() -> None:
    plan = solve(statistics(), h100_nodes(2, 2, 9), limits=Limits(time_limit=1e-6))
    assert not plan.complete
    assert (plan.placement.copies >= 1).all()


@pytest.mark.parametrize(
    ("first", "left_out"),
    [(0, (1, 2, 3, 4)), (1, (0, 2, 3, 4)), (3, (0, 1, 2, 4)), (4, (0, 1, 2, 3)), (6, (0, 2, 3, 4))],
)
def test_the_layer_that_is_searched_first_is_not_left_out(
    first: int, left_out: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[int] = []
    run = candidates.Job.run

    def one_in_time(job: candidates.Job, layer: int) -> candidates.Result:
        searched.append(layer)
        return run(job if len(searched) == 1 else replace(job, deadline=0.0), layer)

    monkeypatch.setattr(candidates.Job, "run", one_in_time)
    loads = RoutingStatistics.of_loads(np.exp(np.random.default_rng(4).normal(size=(5, 8))))
    plan = solve(loads, one_host(2, 5), limits=Limits(first_layer=first, workers=1))
    assert searched == [*range(first % 5, 5), *range(first % 5)]
    assert plan.left_out == left_out
    monkeypatch.undo()
    whole = solve(loads, one_host(2, 5), limits=Limits(first_layer=first, workers=1))
    assert whole.placement == solve(loads, one_host(2, 5)).placement, "the order changes nothing else"


def test_compiling_is_no_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a fresh environment it takes longer than any limit, and the first plan must be that of all later calls."""
    took = 0.0

    def compile_kernels() -> None:
        nonlocal took
        took = 1000.0

    monkeypatch.setattr(solver, "compile_kernels", compile_kernels)
    monkeypatch.setattr(solver, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + took))
    monkeypatch.setattr(candidates, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + took))
    plan = solve(RoutingStatistics.of_loads(np.ones((1, 8))), one_host(2, 5), limits=Limits(time_limit=500.0))
    assert plan.complete
    assert plan.seconds < 500


@pytest.mark.parametrize("seed", range(8))
def test_replicated_experts_without_load_stay_without(seed: int) -> None:
    random = np.random.default_rng(seed)
    load = np.where(np.arange(24) < 12, random.random(24), 0.0)
    held = random.random((24, 6)) < 0.4
    held[np.arange(24), np.arange(24) % 6] = True
    state = copies_in(load, random.random(6) + 0.1, held)
    level(state, 5)
    assert state.part.sum(axis=1) == pytest.approx(load)


def test_layers_not_reached_in_time_are_balanced_by_load() -> None:
    load = np.exp(1.5 * np.random.default_rng(4).normal(size=(3, 64)))
    topology = h100_nodes(2, 4, 9)
    plan = solve(RoutingStatistics.of_loads(load), topology, limits=Limits(time_limit=1e-6))
    assert not plan.complete
    assert plan.after.shard_balance > 0.95


@pytest.mark.parametrize(
    ("topology", "limits", "message"),
    [
        (one_host(2, 10), Limits(), "need 32 slots per layer, the shards have 20: 12 too few"),
        (one_host(1, 64), Limits(min_copies=2), "min_copies 2 needs as many shards with slots, there are 1"),
    ],
)
def test_infeasible_limits_are_named(topology: Topology, limits: Limits, message: str) -> None:
    with pytest.raises(InfeasiblePlacementError, match=message):
        solve(statistics(), topology, limits=limits)


def test_repairs_beyond_the_move_limit_are_named() -> None:
    current = balanced_placement(2, 32, [16, 16])
    with pytest.raises(InfeasiblePlacementError, match="the limits allow 3: 29 too few"):
        solve(statistics(), one_host(2, 32).with_slots([32, 0]), current, Limits(max_moved_slots=3))


def test_statistics_of_another_model_are_refused() -> None:
    with pytest.raises(MismatchError, match="2 layers x 8 experts, the statistics 2 x 32"):
        solve(statistics(), one_host(2, 16), Placement.of(np.tile(np.arange(8), (2, 1)), [4, 4], 8))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_copies", 0), ("min_copies", 1.5), ("max_moved_slots", -1), ("max_moved_slots", math.inf),
        ("max_moved_bytes", math.inf), ("max_moved_bytes", "1"), ("time_limit", 0), ("time_limit", math.nan),
        ("first_layer", -1), ("first_layer", 0.5),
        ("risk", -1), ("risk", math.inf), ("shard_risk", -1), ("samples", 1.5), ("samples", -1),
        ("workers", 0), ("workers", 1.5),
        ("seed", None), ("seed", 1.5), ("seed", 2**70), ("seed", True), ("node_locality", "no"),
    ],
)  # fmt: skip
def test_bad_limits_are_refused(field: str, value: object) -> None:
    with pytest.raises(InfeasiblePlacementError, match=rf"{field} is {re.escape(repr(value))}; it must be "):
        Limits(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
