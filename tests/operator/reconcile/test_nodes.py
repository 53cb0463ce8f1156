"""Copies of an expert on distinct nodes: the first placement, and what becomes of one when nodes change."""

from dataclasses import replace
from typing import Any

import pytest
from data_plane import DataPlane
from intents import shards, slots, told
from moe_facts import FACTS
from placement_objects import content, stored

from moe_operator.placements.book import Book
from moe_operator.reconcile.intent import Intent
from moe_operator.reconcile.placing import NODES_SECONDS
from moe_placement.encoding import decode_placement


def apart(intent: Intent, nodes: str) -> bool:
    """Whether no expert has two copies on one node."""
    held = decode_placement(intent.target.placement).held
    on = [held[:, :, [shard for shard, name in enumerate(nodes) if name == node]] for node in set(nodes)]
    return max(int(each.sum(axis=2).max()) for each in on) == 1


def started(make_plane: Any, nodes: str, **experts: Any) -> DataPlane:
    plane: DataPlane = make_plane(shards=4, slotsPerShard=8, copies={"min": 2}, **experts)
    plane.nodes, plane.recorded = nodes, True
    plane.settle()
    return plane


def test_the_first_placement_waits_for_the_nodes_of_all_shards(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8, copies={"min": 2})
    plane.nodes, plane.starting = "aabb", frozenset({1, 3})
    plane.run()
    assert told(plane.run()) == ([0, 1, 2, 3], (), 0)
    plane.more = {"shards_missing_seconds": NODES_SECONDS - 0.1}
    intent = plane.run()
    assert told(intent) == ([0, 1, 2, 3], (), 0)
    assert set(intent.desired.slots.values()) == {8}
    assert plane.tell().condition("Progressing").message == "shards 1, 3 are starting"
    assert plane.moe.status.slots_per_shard == 8
    plane.starting = frozenset()
    intent = plane.run()
    assert told(intent)[1:] == ((8, 8, 8, 8), 1)
    assert apart(intent, "aabb")
    plane.settle()
    assert told(plane.run())[2] == 1


def test_it_does_not_wait_for_ever_and_is_mended_when_the_last_one_tells(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8, copies={"min": 2})
    plane.nodes, plane.starting, plane.recorded = "aab", frozenset({3}), True
    plane.run()
    plane.run()
    plane.more = {"shards_missing_seconds": NODES_SECONDS}
    intent = plane.run()
    assert intent.target.revision == 1
    assert apart(intent, "aab?")
    plane.nodes, plane.starting = "aaba", frozenset()
    intent = plane.run()
    assert intent.target.revision == 2
    assert apart(intent, "aaba")
    assert plane.run().target.revision == 2


def test_where_no_expert_has_two_copies_nothing_is_waited_for(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.starting = frozenset({0, 1})
    plane.run()
    assert told(plane.run()) == ([0, 1], (8, 8), 1)


def test_a_shard_that_comes_back_on_another_node(make_plane) -> None:
    plane = started(make_plane, "aabb")
    before = plane.run()
    # While its node is not known nothing is moved.
    plane.nodes, plane.lost = "aab", frozenset({3})
    assert plane.run().target == before.target
    plane.nodes, plane.lost = "aaba", frozenset()
    intent = plane.run()
    assert (intent.target.revision, apart(intent, "aaba")) == (2, True)
    was, now = (decode_placement(each.target.placement).held for each in (before, intent))
    # Shard 2 is alone on its node now, and lacks 8 of 16 experts.
    assert 8 <= (now & ~was).sum() <= 10


@pytest.mark.parametrize("nodes", ["aaaa", "aaab"])
def test_without_nodes_or_slots_enough_it_stays(make_plane, nodes: str) -> None:
    plane: DataPlane = make_plane(shards=4, slotsPerShard=4, copies={"min": 2})
    plane.nodes = nodes
    plane.settle()
    assert told(plane.run()) == ([0, 1, 2, 3], (4, 4, 4, 4), 1)


@pytest.mark.parametrize(("origin", "revision"), [("Person", 1), ("Operator", 2)])
def test_what_a_person_wrote_is_left_where_it_is(make_plane, origin: str, revision: int) -> None:
    plane = started(make_plane, "aabb")
    written = content(decode_placement(plane.run().target.placement), 1, 0, FACTS.digest)
    plane.more = {"book": Book.of([stored(written, {"origin": origin, "phase": "Active"}, decision="Approved")])}
    plane.nodes = "abab"
    assert plane.run().target.revision == revision


def test_what_has_no_object_is_left_where_it_is_until_it_has_one(make_plane) -> None:
    """Nobody knows whose it was, where somebody deleted it."""
    plane = started(make_plane, "aabb")
    plane.nodes, plane.recorded = "abab", False
    assert plane.run().target.revision == 1
    plane.recorded = True
    assert plane.run().target.revision == 2


@pytest.mark.parametrize(("origin", "revision"), [("Person", 4), ("Operator", 5)])
def test_what_was_gone_back_to_is_whose_it_was(make_plane, origin: str, revision: int) -> None:
    plane = started(make_plane, "aabb")
    target = plane.target()
    plane.told[plane.name] = replace(
        plane.told[plane.name], directory=target.model_copy(update={"revision": 4, "term": 1})
    )
    placement = decode_placement(target.placement)
    ours: dict[str, Any] = {"origin": "Operator"}
    book = Book.of(
        [
            stored(content(placement, 2, 1), {"origin": origin, "phase": "Superseded"}, decision="Approved"),
            stored(content(placement, 3, 2), {**ours, "phase": "RolledBack"}, decision="Approved"),
            stored(content(placement, 4, 2, FACTS.digest), {**ours, "phase": "Active"}, decision="Approved"),
        ]
    )
    plane.more = {"book": book.for_choice(4)}
    plane.nodes = "abab"
    assert plane.run().target.revision == revision


def test_scaling_up_and_down_keeps_copies_apart(make_plane) -> None:
    plane = started(make_plane, "aabb")
    plane.nodes = "aabbcc"
    plane.change(shards=6, slotsPerShard=8, copies={"min": 2})
    plane.settle()
    intent = plane.run()
    assert (shards(intent), slots(intent)) == ([0, 1, 2, 3, 4, 5], (8,) * 6)
    assert apart(intent, "aabbcc")
    plane.change(shards=3, slotsPerShard=8, copies={"min": 2})
    plane.settle()
    intent = plane.run()
    assert (shards(intent), apart(intent, "aab")) == ([0, 1, 2], True)
