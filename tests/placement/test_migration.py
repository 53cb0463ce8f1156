"""Migration: every state serves every expert, buffers are never exceeded, and losing a shard loses no expert."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import (
    InfeasiblePlacementError,
    MismatchError,
    Placement,
    Topology,
    balanced_placement,
    plan_migration,
)
from moe_placement.migration import CHECKPOINT, Free, Losses, Round, Transfer


def shuffled(layers: int, experts: int, slots: list[int], copies: int, seed: int) -> Placement:
    """A balanced placement with its experts renamed at random."""
    base = balanced_placement(layers, experts, slots, copies)
    names = np.append(np.random.default_rng(seed).permutation(experts), -1)
    return Placement.of(names[base.slots], slots, experts)


def test_a_swap_goes_through_the_spare_buffers() -> None:
    topology = Topology((0, 0), (1, 1))
    migration = plan_migration(Placement.of([[0, 1]], [1, 1], 2), Placement.of([[1, 0]], [1, 1], 2), topology)
    assert migration.rounds == (Round((Transfer(0, 1, 1, 0), Transfer(0, 0, 0, 1)), (Free(0, 0, 0), Free(0, 1, 1))),)


def test_without_a_spare_buffer_a_swap_is_impossible() -> None:
    topology = Topology((0, 0), (1, 1), spare_slots=0)
    with pytest.raises(InfeasiblePlacementError, match="spare_slots is 0, 1 is always enough"):
        plan_migration(Placement.of([[0, 1]], [1, 1], 2), Placement.of([[1, 0]], [1, 1], 2), topology)


def test_the_near_source_is_preferred() -> None:
    topology = Topology((0, 1, 1), (2, 2, 2))
    current = Placement.of([[0, 1, 0, -1, -1, -1]], [2, 2, 2], 2)
    target = Placement.of([[0, 1, 0, -1, 0, -1]], [2, 2, 2], 2)
    assert plan_migration(current, target, topology).rounds[0].transfers == (Transfer(0, 0, 1, 2),)


def test_what_nobody_holds_comes_from_the_checkpoint() -> None:
    current = Placement.of([[0, 1, -1]], [1, 1, 1], 2)
    target = Placement.of([[-1, 0, 1]], [1, 1, 1], 2)
    after_death = Topology((0, 0), (1, 1))
    lost = Placement.of([[1, 0]], [1, 1], 2)
    migration = plan_migration(Placement.of([[0, 1, 1]], [1, 1, 1], 2), lost, after_death)
    assert migration.complete
    migration = plan_migration(current, target, Topology((0, 0, 0), (1, 1, 1)))
    assert all(copy.source != CHECKPOINT for step in migration.rounds for copy in step.transfers)


def test_a_dead_shard_is_no_source() -> None:
    current = Placement.of([[0, 1, 0, 2, 3, -1]], [2, 2, 2], 4)
    target = Placement.of([[0, 1, 2, 3]], [0, 2, 2], 4)
    draining = Topology((0, 0, 1), (0, 2, 2))
    dead = replace(draining, dead=(0,))
    made = {copy for step in plan_migration(current, target, draining).rounds for copy in step.transfers}
    assert made == {Transfer(0, 1, 0, 1), Transfer(0, 2, 1, 2)}
    migration = plan_migration(current, target, dead)
    assert migration.rounds == (Round((Transfer(0, 1, CHECKPOINT, 1), Transfer(0, 2, 1, 2)), (Free(0, 2, 1),)),)
    assert migration.losses == Losses((0,), (), 2, 1)
    assert migration.bytes_out[0] == 0
    assert migration.text.startswith(
        "shard 0 is dead: 2 copies are lost, and 1 experts have no other: nothing serves them until they are read "
        "again; the move takes 1 rounds"
    )
    assert "1 of its 2 transfers are read from the checkpoint" in migration.text
    assert "dead" not in plan_migration(current, target, draining).text
    for state in migration.states(current.held):
        assert not state[:, :, 0].any()


def test_lost_copies_do_not_count_as_live() -> None:
    """Expert 0 has copies on both; one is lost, so that the other must stay until a new one is made."""
    current = Placement.of([[0, 0, -1]], [1, 1, 1], 1)
    target = Placement.of([[0]], [0, 0, 1], 1)
    topology = Topology((0, 0, 0), (0, 0, 1), dead=(0,))
    migration = plan_migration(current, target, topology)
    assert migration.rounds == (Round((Transfer(0, 0, 1, 2),), (Free(0, 0, 1),)),)


def test_shards_that_the_topology_has_no_more_are_dead() -> None:
    migration = plan_migration(Placement.of([[0, 1]], [1, 1], 2), Placement.of([[0, 1]], [2], 2), Topology((0,), (2,)))
    assert migration.rounds == (Round((Transfer(0, 1, CHECKPOINT, 0),), ()),)
    assert migration.losses == Losses((), (1,), 1, 1)

    assert migration.losses.text.startswith("shard 1 is gone from the topology: 1 copies are lost, and 1 experts have")
    assert (
        Losses((0, 1), (4,), 9).text == "shards 0-1 are dead and shard 4 is gone from the topology: 9 copies are lost"
    )


def test_nothing_is_copied_to_a_dead_shard() -> None:
    placement = balanced_placement(1, 4, [2, 2])
    with pytest.raises(InfeasiblePlacementError, match=r"2 copies on dead shards \(dead is \(1,\)\)"):
        plan_migration(placement, placement, Topology((0, 0), (4, 2), dead=(1,)))


@pytest.mark.parametrize("gains", [None, [9.0, 1.0]])
def test_what_nothing_serves_is_copied_first(gains: list[float] | None) -> None:
    """Within a budget and against all gains; layer 0 gains most, and layer 1 has lost experts 2 and 3."""
    current = Placement.of([[0, 1, 2, 3, -1, -1], [0, 1, -1, -1, 2, 3]], [2, 2, 2], 4)
    target = Placement.of([[2, 3, 0, 1], [0, 2, 1, 3]], [2, 2, 0], 4)
    topology = Topology((0, 0, 0), (2, 2, 2), dead=(2,))
    for budget in (2, None):
        migration = plan_migration(
            current, target, topology, max_transfers=budget, gains=None if gains is None else np.array(gains)
        )
        made = [copy for step in migration.rounds for copy in step.transfers]
        assert {(copy.layer, copy.expert, copy.source) for copy in made[:2]} == {(1, 2, CHECKPOINT), (1, 3, CHECKPOINT)}
        assert migration.complete == (budget is None)


@given(st.integers(3, 7), st.integers(2, 16), st.integers(1, 2), st.integers(1, 2), st.integers(0, 2**31))
@settings(max_examples=60)
def test_from_whatever_dead_shards_leave(shards: int, experts: int, layers: int, copies: int, seed: int) -> None:
    """No dead source, nothing that is served ever unserved, within the buffers, and whole at the end."""
    random = np.random.default_rng(seed)
    dead = random.choice(shards, random.integers(1, shards - 1), replace=False).tolist()
    copies = min(copies, shards - len(dead))
    slots = [-(-experts * copies // (shards - len(dead)))] * shards
    alive = [0 if shard in dead else room for shard, room in enumerate(slots)]
    current = shuffled(layers, experts, slots, copies, seed)
    target = shuffled(layers, experts, alive, copies, seed + 1)
    topology = Topology(tuple(shard % 2 for shard in range(shards)), tuple(slots), dead=dead)
    migration = plan_migration(current, target, topology)
    live = topology.readable(current.held)
    served = live.any(axis=2)
    least = np.minimum(live.sum(axis=2), target.held.sum(axis=2))
    assert migration.losses.unserved == (~served).sum()
    for step in migration.rounds:
        for copy in step.transfers:
            assert copy.source not in dead
            assert (copy.source == CHECKPOINT) == (not live[copy.layer, copy.expert].any())
            assert copy.source == CHECKPOINT or live[copy.layer, copy.expert, copy.source]
        for copy in step.transfers:
            live[copy.layer, copy.expert, copy.target] = True
        for free in step.frees:
            live[free.layer, free.expert, free.shard] = False
        assert (live.sum(axis=2) >= least).all()
        served |= live.any(axis=2)
        assert (live.any(axis=2) == served).all()
        assert (live.sum(axis=(0, 1)) <= topology.slots * layers + 1).all()
    assert (live == target.held).all()


@given(st.integers(2, 8), st.integers(2, 24), st.integers(1, 3), st.integers(1, 2), st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_prefix_serves_and_fits(shards: int, experts: int, layers: int, copies: int, seed: int) -> None:
    copies = min(copies, shards)
    slots = [-(-experts * copies // shards) + 1] * shards
    current, target = (shuffled(layers, experts, slots, copies, seed + i) for i in range(2))
    topology = Topology(tuple(shard % 2 for shard in range(shards)), tuple(slots), spare_slots=1)
    migration = plan_migration(current, target, topology)
    state = current.held
    for state in migration.states(current.held):
        assert (state.sum(axis=2) >= copies).all()  # so any one shard may die while copies are 2
        assert (state.sum(axis=(0, 1)) <= topology.slots * layers + 1).all()
    assert (state == target.held).all()
    for step in migration.rounds:
        targets, sources = ([getattr(c, end) for c in step.transfers] for end in ("target", "source"))
        assert len(set(targets)) == len(targets)
        assert len(set(sources)) == len(sources)
    busiest = migration.busiest_link_bytes / topology.costs.bytes_per_expert
    assert sum(bool(step.transfers) for step in migration.rounds) <= max(1.2 * busiest, busiest + 2)


@given(st.integers(3, 6), st.integers(0, 40), st.integers(0, 5), st.integers(0, 2**31))
@settings(max_examples=30)
def test_a_shard_dies_in_the_middle_and_the_rest_is_planned_anew(shards: int, at: int, dead: int, seed: int) -> None:
    experts, slots, dead = 12, [12] * shards, dead % shards
    current, target = (shuffled(2, experts, slots, 2, seed + i) for i in range(2))
    topology = Topology((0,) * shards, tuple(slots))
    state = current.held
    migration = plan_migration(current, target, topology)
    for state in islice(migration.states(current.held), at):
        assert state.any(axis=2).all()
    left = state.copy()
    left[:, :, dead] = False
    assert left.any(axis=2).all()
    alive = [0 if shard == dead else 12 for shard in range(shards)]
    now = _placement(left, alive)
    onwards = plan_migration(now, balanced_placement(2, experts, alive, 2), topology.with_slots(alive))
    for state in onwards.states(now.held):
        assert state.any(axis=2).all()


def _placement(held: np.ndarray, slots: list[int]) -> Placement:
    rows = []
    for layer in held:
        row: list[int] = []
        for shard, room in enumerate(slots):
            inside = np.flatnonzero(layer[:, shard]).tolist()
            row += inside + [-1] * (room - len(inside))
        rows.append(row)
    return Placement.of(rows, slots, held.shape[1])


def test_a_budget_stops_early_and_says_so() -> None:
    topology = Topology((0, 0), (4, 4))
    current, target = (shuffled(1, 8, [4, 4], 1, seed) for seed in (1, 2))
    migration = plan_migration(current, target, topology, max_transfers=1)
    assert (migration.transfers, migration.complete) == (1, False)


LAYERS = ([[0, 1, 2, 3]] * 3, [[1, 0, 3, 2], [1, 0, 2, 3], [1, 0, 2, 3]])
"""Layer 0 takes four copies, layers 1 and 2 two each."""


@pytest.mark.parametrize(
    ("gains", "copies", "layers"),
    [
        ([3.0, 1.0, 2.0], 2, {2}),  # per copy 0.75, 0.5 and 1
        ([3.0, 1.0, 2.0], 6, {0, 2}),
        ([5.0, 1.0, 2.0], 4, {0}),
        ([0.0, 1.0, 0.0], 2, {1}),
    ],
)
def test_the_layers_with_most_gain_per_byte_are_moved_within_the_budget(
    gains: list[float], copies: int, layers: set[int]
) -> None:
    topology = Topology((0,) * 4, (1,) * 4)
    current, target = (Placement.of(rows, topology.shard_slots, 4) for rows in LAYERS)
    size = topology.costs.bytes_per_expert
    migration = plan_migration(current, target, topology, gains=np.array(gains), max_bytes=(copies + 0.9) * size)
    made = [copy for step in migration.rounds for copy in step.transfers]
    assert {copy.layer for copy in made} == layers
    assert len(made) == copies
    assert migration.bytes_in.sum() <= (copies + 0.9) * size
    assert not migration.complete
    whole = plan_migration(current, target, topology, gains=np.array(gains))
    assert whole.complete
    assert whole.rounds[0].transfers[0].layer == int(np.argmax(np.array(gains) / [4, 2, 2]))


@given(st.integers(2, 6), st.integers(2, 16), st.integers(0, 12), st.integers(0, 2**31))
@settings(max_examples=40)
def test_every_prefix_serves_with_gains_and_a_budget(shards: int, experts: int, budget: int, seed: int) -> None:
    slots = [-(-experts // shards)] * shards
    current, target = (shuffled(3, experts, slots, 1, seed + i) for i in range(2))
    topology = Topology((0,) * shards, tuple(slots))
    gains = np.random.default_rng(seed).normal(size=3)
    migration = plan_migration(current, target, topology, max_transfers=budget, gains=gains)
    assert migration.transfers == min(budget, int((target.held & ~current.held).sum()))
    for state in migration.states(current.held):
        assert state.any(axis=2).all()
        assert (state.sum(axis=(0, 1)) <= topology.slots * 3 + 1).all()


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"max_bytes": float("nan")}, "max_bytes is nan"),
        ({"max_bytes": float("inf")}, "max_bytes is inf"),
        ({"max_transfers": -1}, "max_transfers is -1"),
        ({"max_transfers": 2.5}, "max_transfers is 2.5"),
        ({"bandwidth_share": 0.0}, "bandwidth_share is 0"),
        ({"gains": np.array([np.nan])}, "gains.0. is nan"),
        ({"gains": np.ones(2)}, "gains must name 1 layers"),
    ],
)
def test_limits_that_cannot_be_are_refused(limits: dict[str, object], message: str) -> None:
    placement = balanced_placement(1, 4, [2, 2])
    with pytest.raises((InfeasiblePlacementError, MismatchError), match=message):
        plan_migration(placement, placement, Topology((0, 0), (2, 2)), **limits)  # type: ignore[arg-type]  # wrong on purpose


def test_nothing_to_do() -> None:
    placement = balanced_placement(1, 4, [2, 2])
    migration = plan_migration(placement, placement, Topology((0, 0), (2, 2)))
    assert (migration.rounds, migration.seconds, migration.complete) == ((), 0.0, True)


def test_other_models_are_refused() -> None:
    with pytest.raises(MismatchError):
        plan_migration(balanced_placement(1, 4, [2, 2]), balanced_placement(2, 4, [2, 2]), Topology((0, 0), (2, 2)))
