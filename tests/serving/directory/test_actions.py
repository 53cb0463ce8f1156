"""The next actions: exact ones in tables, and a random world in which no expert may ever go unserved."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moe_placement import Placement, balanced_placement
from moe_serving.directory.actions import Copies, Situation, is_settled, next_actions
from moe_serving.directory.publication import Publication
from moe_serving.experts.description import Loading
from moe_serving.routing.table import RoutingTable, ShardAddress
from moe_serving.wire.endpoint import Address


def copies(*experts: str) -> Copies:
    """One layer; per expert the shards that hold it, one character each: ``"x-"`` is shard 0 of two."""
    return np.array([[[mark == "x" for mark in expert] for expert in experts]])


def situation(
    target: Copies, held: Copies, published: Copies, capacity: int, min_copies: int = 1, released: bool = True
) -> Situation:
    shards = target.shape[2]
    return Situation(
        target=target,
        held=held,
        silent=np.zeros_like(held),
        published=published,
        released=np.full(held.shape, released),
        live=np.ones(shards, dtype=bool),
        capacity=np.full(shards, capacity),
        min_copies=min_copies,
        pairs=np.zeros(target.shape[:2]),
        loading={},
    )


def test_first_load() -> None:
    """Nothing is held: everything is loaded, nothing can be published."""
    nothing = copies("--", "--")
    actions = next_actions(situation(copies("x-", "-x"), nothing, nothing, capacity=2))
    assert actions.load == {0: ((0, 0),), 1: ((0, 1),)}
    assert not actions.table.any()


def test_a_loaded_copy_is_published() -> None:
    held = copies("x-", "--")
    actions = next_actions(situation(copies("x-", "-x"), held, copies("--", "--"), capacity=2))
    assert (actions.table == held).all()


def test_make_before_break_step_by_step() -> None:
    """Expert 0 moves from shard 0 to shard 1: load, publish without the old copy, free once that is acknowledged."""
    target, old, both, new = copies("-x"), copies("x-"), copies("xx"), copies("-x")
    load = next_actions(situation(target, held=old, published=old, capacity=1))
    assert load.load[1] == ((0, 0),)
    assert (load.table == old).all()
    publish = next_actions(situation(target, held=both, published=old, capacity=1))
    assert (publish.table == new).all()
    assert publish.free == {0: (), 1: ()}
    wait = next_actions(situation(target, held=both, published=new, capacity=1, released=False))
    assert wait.free == {0: (), 1: ()}
    free = next_actions(situation(target, held=both, published=new, capacity=1))
    assert free.free == {0: ((0, 0),), 1: ()}


def test_an_old_copy_stays_while_too_few_others_live() -> None:
    target = copies("-xx")
    held = copies("xx-")
    actions = next_actions(situation(target, held, published=held, capacity=1, min_copies=2))
    assert (actions.table == held).all()
    assert actions.load[2] == ((0, 0),)


def test_a_full_shard_frees_before_it_loads() -> None:
    """Shards 0 and 1 exchange experts without a spare buffer but the one that both copies of expert 2 leave."""
    target, held = copies("-x", "x-", "x-"), copies("x-", "-x", "xx")
    actions = next_actions(situation(target, held, published=copies("x-", "-x", "x-"), capacity=2))
    assert actions.free[1] == ((0, 2),)
    assert actions.load == {0: (), 1: ((0, 0),)}


def test_experts_without_a_live_copy_come_first() -> None:
    target = copies("xx-", "xx-", "-xx")
    held = copies("x--", "---", "--x")
    actions = next_actions(situation(target, held, published=held, capacity=1))
    assert actions.load[1] == ((0, 1),)


def test_among_equally_urgent_copies_those_with_the_most_pairs_come_first() -> None:
    nothing = copies("---", "---", "x--", "---")
    now = situation(copies("xx-", "x-x", "xx-", "x--"), nothing, nothing, capacity=4)
    counted = replace(now, pairs=np.array([[1.0, 9.0, 99.0, 5.0]]))
    assert next_actions(now).load == {0: ((0, 0), (0, 1), (0, 3)), 1: ((0, 0), (0, 2)), 2: ((0, 1),)}
    assert next_actions(counted).load == {0: ((0, 1), (0, 3), (0, 0)), 1: ((0, 0), (0, 2)), 2: ((0, 1),)}


def test_what_is_short_of_copies_comes_before_what_has_many_pairs() -> None:
    """With two copies of each wanted all the time; a third is short of nothing."""
    target, held = copies("xxxx", "xxxx", "xxxx"), copies("xxx-", "x---", "xx--")
    now = situation(target, held, held, capacity=3, min_copies=2)
    assert next_actions(replace(now, pairs=np.array([[9.0, 1.0, 99.0]]))).load[3] == ((0, 1), (0, 2), (0, 0))


def test_what_is_queued_but_not_on_its_way_lets_pass_what_is_short_of_copies() -> None:
    target, held = copies("xx-", "xxx"), copies("x--", "x-x")
    now = situation(target, held, held, capacity=1, min_copies=2)
    for begun, first in ((True, (0, 1)), (False, (0, 0))):
        assert next_actions(replace(now, loading={1: Loading(((0, 1), (0, 0)), begun)})).load[1] == (first,)


@pytest.mark.parametrize(
    ("held", "pairs", "loading", "load"),
    [
        (("x--", "x--", "x--"), (1, 2, 3), ((0, 0),), ((0, 0), (0, 2))),  # other traffic meanwhile
        (("xx-", "x--", "x--"), (1, 2, 3), ((0, 0),), ((0, 0), (0, 2))),  # a second copy of it elsewhere meanwhile
        (("x--", "x--", "x--"), (1, 2, 3), ((0, 0), (0, 1)), ((0, 0), (0, 1))),  # what is queued stays queued
        (("x--", "x--", "---"), (1, 2, 0), ((0, 0),), ((0, 2), (0, 0))),  # nobody else can answer for it
        (("xx-", "xx-", "x--"), (1, 2, 0), ((0, 1), (0, 0)), ((0, 1), (0, 2))),  # nothing of the last was sent yet
        (("x--", "x--", "x--"), (1, 2, 3), ((0, 7), (0, 0)), ((0, 0), (0, 2))),  # wanted no more
    ],
)
def test_what_is_on_its_way_goes_on(
    held: tuple[str, ...], pairs: tuple[float, ...], loading: tuple[tuple[int, int], ...], load: object
) -> None:
    """Shard 2 has room for two copies, and wants three, of which every expert shall have two."""
    there = [*held, *["--x"] * 5]
    now = situation(copies("xxx", "xxx", "xxx", *["--x"] * 5), copies(*there), copies(*there), 7, min_copies=2)
    now = replace(now, pairs=np.array([[*pairs, *[0.0] * 5]]), loading={2: Loading(loading, begun=True)})
    assert next_actions(now).load[2] == load


def test_a_silent_shard_stays_in_the_table_but_nothing_relies_on_it() -> None:
    now = situation(target=copies("-x"), held=copies("x-"), published=copies("xx"), capacity=1)
    actions = next_actions(replace(now, silent=copies("-x"), live=np.array([True, False])))
    assert (actions.table == copies("xx")).all()
    assert actions.free == {0: ()}


def test_the_copy_that_left_the_table_stays_out() -> None:
    """Either surplus copy of the expert could go: the one that nobody routes to any more does, whatever needs room."""
    target, held = copies("--x", "x--"), copies("xxx", "---")
    actions = next_actions(situation(target, held, published=copies("x-x", "---"), capacity=1, min_copies=2))
    assert (actions.table[0, 0] == [False, False, True]).all()
    assert actions.free[1] == ((0, 0),)
    assert actions.free[0] == ()


def test_settled_means_the_target_and_nothing_else() -> None:
    target = copies("x-", "-x")
    assert is_settled(situation(target, target, target, capacity=1))
    assert not is_settled(situation(target, copies("x-", "xx"), target, capacity=2))
    assert not is_settled(situation(target, target, copies("x-", "--"), capacity=1))


@pytest.mark.parametrize(
    ("target", "live", "published", "settled"),
    [
        (copies("x-", "x-"), [True, False], copies("x-", "x-"), True),
        (copies("x-", "x-"), [True, False], copies("xx", "x-"), False),
        (copies("x-", "-x"), [True, False], copies("x-", "-x"), False),
    ],
    ids=["it leaves", "it leaves and may still be asked", "it is needed"],
)
def test_a_target_is_settled_without_an_answer_of_a_shard_that_must_hold_nothing(
    target: Copies, live: list[bool], published: Copies, settled: bool
) -> None:
    now = situation(target, target & np.array(live), published, capacity=2)
    assert is_settled(replace(now, live=np.array(live))) == settled


# A random world.


@dataclass
class World:
    """Shards that hold, lose and load; attention replicas that lag behind; the rule in between."""

    target: Placement
    min_copies: int
    spare: int
    held: Copies = field(init=False)
    live: np.ndarray = field(init=False)
    publication: Publication = field(init=False)
    replicas: dict[str, RoutingTable] = field(init=False)
    lives: list[int] = field(init=False)
    pairs: np.ndarray = field(init=False)
    loading: dict[int, Loading] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.held = self.target.held.copy()
        self.live = np.ones(self.target.shards, dtype=bool)
        self.lives = [0] * self.target.shards
        self.pairs = np.zeros(self.held.shape[:2])
        self.publication = Publication(*self.held.shape)
        self.replicas = {}
        self.turn(loads=0)
        self.replicas = dict.fromkeys(("a", "b"), self.publication.table)
        assert is_settled(self.situation())

    @property
    def capacity(self) -> np.ndarray:
        return np.full(len(self.live), self.target.layers * max(self.target.shard_slots) + self.spare)

    def situation(self) -> Situation:
        acknowledged = min(
            (self.publication.acknowledged_by(table.version) for table in self.replicas.values()), default=2**62
        )
        return Situation(
            target=self.target.held,
            held=self.held & self.live,
            silent=np.zeros_like(self.held),
            published=self.publication.copies,
            released=self.publication.released(acknowledged),
            live=self.live.copy(),
            capacity=self.capacity,
            min_copies=self.min_copies,
            pairs=self.pairs,
            loading=self.loading,
        )

    def turn(self, loads: int) -> bool:
        """Act; every shard finishes at most ``loads`` copies. Returns whether anything was left to do."""
        before, count = (self.held & self.live).any(axis=2), self.held.sum(axis=(0, 1))
        actions = next_actions(self.situation())
        addresses = [
            ShardAddress(shard, f"{shard}.{self.lives[shard]}", Address("n", b""))
            for shard in range(len(self.live))
            if actions.table[:, :, shard].any()
        ]
        changed = self.publication.publish(actions.table, addresses)
        for shard, freed in actions.free.items():
            for layer, expert in freed:
                self.held[layer, expert, shard] = False
        for shard, loaded in actions.load.items():
            for layer, expert in loaded[:loads]:
                self.held[layer, expert, shard] = True
            self.loading[shard] = Loading(loaded[loads:], begun=bool(loaded[loads:]))
        assert ((self.held & self.live).any(axis=2) >= before).all(), "an expert that was served is not served any more"
        within = self.held.sum(axis=(0, 1)) <= np.maximum(self.capacity, count)
        assert within.all(), "a shard loads more than it may hold"
        return changed or any(actions.free.values()) or any(actions.load.values())

    def check_every_replica_finds_every_expert(self) -> None:
        for name, table in self.replicas.items():
            asked = self.held[:, :, [shard.index for shard in table.shards]] & table.held
            assert asked.any(axis=2).all(), f"replica {name} has a table with an expert that nobody holds"

    def sync(self, name: str) -> None:
        self.replicas[name] = self.publication.table

    def die(self, shard: int) -> None:
        self.live[shard] = False
        self.held[:, :, shard] = False
        self.loading.pop(shard, None)

    def come_back(self, shard: int) -> None:
        self.lives[shard] += not self.live[shard]
        self.live[shard] = True

    def count(self, expert: int) -> None:
        """Pairs of one expert, numbered over all layers."""
        self.pairs.flat[expert] += 1

    def restart_directory(self) -> None:
        self.publication = Publication(*self.held.shape)

    def converge(self) -> None:
        bound = 20 + 4 * int(self.held.size)
        for _ in range(bound):
            busy = self.turn(loads=1)
            for name in self.replicas:
                self.sync(name)
            if not busy and is_settled(self.situation()):
                return
        raise AssertionError(f"not settled after {bound} turns")


@st.composite
def placements(draw: st.DrawFn, layers: int, experts: int, shards: int, slots: int) -> tuple[Placement, int]:
    """Any placement that fits the slots, with the number of copies that every expert has at least."""
    copies_wanted = draw(st.integers(1, min(shards, shards * slots // experts)))
    base = balanced_placement(layers, experts, [slots] * shards, copies_wanted)
    permuted = np.stack([draw(st.permutations(range(experts))) for _ in range(layers)])
    rows = np.where(base.slots >= 0, np.take_along_axis(permuted, np.maximum(base.slots, 0), axis=1), base.slots)
    return Placement.of(rows, base.shard_slots, experts), copies_wanted


@st.composite
def journeys(draw: st.DrawFn) -> tuple[World, Placement, int]:
    layers, shards = draw(st.integers(1, 2)), draw(st.integers(2, 4))
    experts = draw(st.integers(shards, 6))
    slots = draw(st.integers(-(-experts // shards), experts))
    start, copies_before = draw(placements(layers, experts, shards, slots))
    goal, copies_after = draw(placements(layers, experts, shards, slots))
    world = World(start, draw(st.integers(1, copies_before)), spare=draw(st.integers(1, 2)))
    return world, goal, draw(st.integers(1, copies_after))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(journeys(), st.data())
def test_any_placement_is_reached_from_any_other_without_an_expert_missed(
    journey: tuple[World, Placement, int], data: st.DataObject
) -> None:
    """Replicas and shards proceed in any order; whoever is how far behind, every expert of its table is held."""
    world, world.target, world.min_copies = journey
    for _ in range(data.draw(st.integers(0, 12))):
        world.count(data.draw(st.integers(0, world.held[:, :, 0].size - 1)))
        world.turn(loads=data.draw(st.integers(0, 3)))
        world.check_every_replica_finds_every_expert()
        for name in data.draw(st.sets(st.sampled_from(["a", "b"]))):
            world.sync(name)
    world.converge()
    world.check_every_replica_finds_every_expert()


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(journeys(), st.data())
def test_deaths_and_restarts_lose_only_what_nobody_else_held(
    journey: tuple[World, Placement, int], data: st.DataObject
) -> None:
    """``World.turn`` itself checks that no action ever takes the last live copy of an expert."""
    world, world.target, world.min_copies = journey
    shard = st.integers(0, world.target.shards - 1)
    for _ in range(data.draw(st.integers(0, 15))):
        event = data.draw(st.sampled_from(["turn", "turn", "sync", "die", "come back", "restart directory"]))
        if event == "turn":
            world.turn(loads=data.draw(st.integers(0, 3)))
        elif event == "sync":
            world.sync(data.draw(st.sampled_from(["a", "b"])))
        elif event == "die":
            world.die(data.draw(shard))
        elif event == "come back":
            world.come_back(data.draw(shard))
        else:
            world.restart_directory()
    for number in range(world.target.shards):
        world.come_back(number)
    world.converge()


@pytest.mark.parametrize("min_copies", [1, 2])
def test_without_a_death_min_copies_hold_throughout(min_copies: int) -> None:
    """4 shards to 2 and back: at no moment does an expert have fewer copies than asked for."""
    four = balanced_placement(3, 8, [4, 4, 4, 4], 2)
    two = balanced_placement(3, 8, [8, 8, 0, 0], 2, current=four)
    world = World(four, min_copies, spare=2)
    for goal in (two, four):
        world.target = goal
        for _ in range(200):
            world.turn(loads=1)
            assert (world.held.sum(axis=2) >= min_copies).all()
            for name in world.replicas:
                world.sync(name)
            if is_settled(world.situation()):
                break
        assert is_settled(world.situation())
