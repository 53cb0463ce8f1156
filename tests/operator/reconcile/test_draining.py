"""Shards that shall hold nothing: what is placed meanwhile, and what is told of it."""

from dataclasses import replace
from typing import Any

import pytest
from data_plane import DataPlane, deployment
from hypothesis import given, settings
from hypothesis import strategies as st
from intents import shards, slots, told
from moe_facts import FACTS
from placement_objects import content, moved, stored

from moe_operator.api import Condition, ConditionType, MoEDeployment, PlacementReason
from moe_operator.api.names import ANNOTATION_DRAIN
from moe_operator.placements.book import Book
from moe_operator.reconcile.draining import Needs, fewest_beside, named
from moe_operator.reconcile.intent import Intent
from moe_placement import Placement
from moe_placement.encoding import decode_placement


def annotate(plane: DataPlane, value: str | None) -> None:
    """Somebody names shards to be drained, or takes that back."""
    annotations = {} if value is None else {ANNOTATION_DRAIN: value}
    metadata = plane.moe.metadata.model_copy(update={"annotations": annotations})
    plane.moe = plane.moe.model_copy(update={"metadata": metadata})


def scale(plane: DataPlane, **experts: Any) -> None:
    annotations = plane.moe.metadata.annotations
    plane.change(**experts)
    annotate(plane, annotations.get(ANNOTATION_DRAIN))


def held(intent: Intent) -> list[int]:
    """Copies that each shard has in the placement wanted, over all layers."""
    placement = decode_placement(intent.target.placement)
    return [len(placement.holdings(shard)) for shard in range(placement.shards)]


def said(plane: DataPlane) -> str:
    """Condition Drained, as ``status reason``; empty without one."""
    condition = of_drain(plane)
    return f"{condition.status} {condition.reason}" if condition else ""


def of_drain(plane: DataPlane) -> Condition | None:
    return plane.tell().condition(ConditionType.DRAINED)


def message(plane: DataPlane) -> str:
    condition = of_drain(plane)
    assert condition is not None
    return condition.message


def test_a_shard_is_drained_and_comes_back(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    before = decode_placement(plane.run().target.placement)
    assert said(plane) == ""
    annotate(plane, " 1 ")
    plane.settled = False
    intent = plane.run()
    # It runs on, has its slots, and nothing in them; the others keep what they hold.
    assert (told(intent), held(intent)[1]) == (([0, 1, 2, 3], (8, 8, 8, 8), 2), 0)
    after = decode_placement(intent.target.placement)
    assert (after.held[:, :, [0, 2, 3]] >= before.held[:, :, [0, 2, 3]]).all()
    assert said(plane) == "False Draining"
    assert message(plane) == "shard 1 holds 4; copies are made on the other shards first"
    plane.settled = True
    assert told(plane.run())[2] == 2
    assert said(plane) == "True Drained"
    assert message(plane) == "shard 1 holds nothing and is sent nothing: its processes may be stopped"
    status = plane.tell()
    assert (status.shards, status.ready_shards) == (4, 3)
    assert status.condition("Progressing").reason == "Settled"
    # It becomes an object like any other.
    record = plane.decide().choice.record
    assert record is not None
    assert [line.split()[8:16] for line in record.content.layers] == [["-"] * 8] * 2
    plane.recorded = True
    annotate(plane, None)
    back = plane.run()
    assert (back.target.revision, held(back)) == (3, [4, 4, 4, 4])
    assert said(plane) == ""
    assert told(plane.run())[2] == 3


@pytest.mark.parametrize(
    ("experts", "named", "message"),
    [
        (
            {"shards": 1, "slotsPerShard": 8},
            "0",
            "names shard 0 of 1: the other 0 have 0 x 8 = 0 slots per layer, and 8 experts x 1 (copies.min) need 8, on "
            "1 shards at least; nothing is moved: scale to 2 shards first",
        ),
        (
            {"shards": 4, "slotsPerShard": 3},
            "2,3",
            "names shards 2, 3 of 4: the other 2 have 2 x 3 = 6 slots per layer, and 8 experts x 1 (copies.min) need "
            "8, on 3 shards at least; nothing is moved: scale to 5 shards first, or name at most 1",
        ),
        (
            {"shards": 3, "slotsPerShard": 100, "copies": {"min": 2}},
            "0,1",
            "names shards 0, 1 of 3: the other 1 have 1 x 8 = 8 slots per layer, and 8 experts x 2 (copies.min) need "
            "16, on 2 shards at least; nothing is moved: scale to 4 shards first, or name at most 1",
        ),
        (
            {"shards": 8, "slotsPerShard": 1},
            "7",
            "names shard 7 of 8: the other 7 have 7 x 1 = 7 slots per layer, and 8 experts x 1 (copies.min) need 8, on "
            "8 shards at least; nothing is moved: set a larger slotsPerShard first",
        ),
    ],
)
def test_a_drain_for_which_the_others_lack_room_moves_nothing(
    make_plane, experts: dict[str, Any], named: str, message: str
) -> None:
    plane = make_plane(**experts)
    plane.settle()
    before = plane.run().target
    annotate(plane, named)
    assert plane.run().target == before
    condition = of_drain(plane)
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "DrainRefused")
    assert condition.message == f"the annotation {ANNOTATION_DRAIN} {message}"
    assert plane.tell().condition("Ready").status == "True"
    assert plane.tell().condition("Degraded").status == "False"


def test_a_drain_that_was_refused_begins_once_there_is_room(make_plane) -> None:
    plane = make_plane(shards=1, slotsPerShard=8)
    plane.settle()
    annotate(plane, "0")
    plane.settle()
    scale(plane, shards=2, slotsPerShard=8)
    assert held(plane.run()) == [0, 16]
    assert said(plane) == "True Drained"


@pytest.mark.parametrize(
    ("text", "drained", "told"),
    [
        ("4", [], "names 4, and shards 0 to 3 run"),
        ("1,33", [1], "names 33, and shards 0 to 3 run"),
        ("1;2", [], "names 1;2, and"),
        ("-1", [], "names -1, and"),
        ("1,,x", [1], "names nothing, x, and"),
        ("0x1\n, 2", [2], "names 0x1, and"),
        ("a\x1bb", [], "names a\\x1bb, and"),
        ("²", [], "names ², and"),
        ("9" * 5000, [], f"names {'9' * 16}, and"),
        (",".join(["7"] * 5000), [], "names 7, 7, 7, 7, 7, 7, 7, 7 and 1017 more, and"),
    ],
)
def test_what_names_no_shard_is_told_and_the_rest_is_drained(
    make_plane, text: str, drained: list[int], told: str
) -> None:
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    annotate(plane, text)
    intent = plane.run()
    assert [shard for shard, copies in enumerate(held(intent)) if not copies] == drained
    condition = of_drain(plane)
    assert condition is not None
    assert (condition.status, condition.reason) == ("False", "NoSuchShard")
    assert told in condition.message
    assert len(condition.message) < 700
    assert ("its processes may be stopped" in condition.message) == bool(drained)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_annotation_that_names_nothing_asks_for_nothing(make_plane, text: str) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.settle()
    annotate(plane, text)
    assert plane.run().target.revision == 1
    assert said(plane) == ""


def test_a_drain_while_a_migration_runs_takes_its_place(make_plane) -> None:
    """What was moved so far stays where it is; nothing of the former wish is gone on with."""
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    plane.settled = False
    scale(plane, shards=4, slotsPerShard=8, copies={"min": 2})
    assert plane.run().target.revision == 2
    annotate(plane, "0")
    intent = plane.run()
    assert (intent.target.revision, held(intent)[0], intent.target.min_copies) == (3, 0, 2)
    assert decode_placement(intent.target.placement).copies.min() == 2
    assert said(plane) == "False Draining"
    plane.settled = True
    assert plane.run().target.revision == 3
    assert said(plane) == "True Drained"


def test_scaling_down_beside_a_drain_keeps_the_shards_that_are_needed(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=4)
    plane.settle()
    annotate(plane, "0,1")
    plane.settle()
    scale(plane, shards=3, slotsPerShard=4)
    intent = plane.run()
    assert (shards(intent), held(intent)) == ([0, 1, 2, 3], [0, 0, 8, 8])
    assert said(plane) == "True Drained"
    assert plane.tell().condition("Progressing").message.startswith("spec.experts.shards is 3, and 4 run")
    # Once the drain ends the one too many goes.
    annotate(plane, None)
    plane.settle()
    assert shards(plane.run()) == [0, 1, 2]


def test_a_drained_shard_that_leaves(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    annotate(plane, "3")
    plane.settle()
    emptied = plane.run()
    scale(plane, shards=3, slotsPerShard=8)
    plane.settle()
    gone = plane.run()
    assert shards(gone) == [0, 1, 2]
    stayed = decode_placement(gone.target.placement).held == decode_placement(emptied.target.placement).held[:, :, :3]
    assert stayed.all()
    assert said(plane) == "False NoSuchShard"


def test_what_is_told_while_nothing_is_known_or_runs(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    annotate(plane, "1")
    assert said(plane) == "Unknown Draining"
    plane.settle()
    assert said(plane) == "True Drained"
    plane.answers = False
    assert said(plane) == "True Drained"
    plane.answers = True
    scale(plane, shards=0)
    plane.run()
    assert said(plane) == "True Asleep"


@pytest.mark.parametrize(("phase", "copied", "done"), [("Lost", 15, False), ("Lost", 16, True), ("Ready", 15, True)])
def test_of_a_shard_that_does_not_answer_all_must_be_elsewhere(make_plane, phase: str, copied: int, done: bool) -> None:
    plane = make_plane(shards=3, slotsPerShard=8)
    plane.settle()
    annotate(plane, "2")
    plane.settle()
    report = plane.report()
    progress = report.progress.model_copy(update={"copied": copied, "total": 16})
    told = (*report.shards[:2], report.shards[2].model_copy(update={"phase": phase}))
    plane.more = {"report": report.model_copy(update={"shards": told, "progress": progress})}
    assert said(plane) == ("True Drained" if done else "False Draining")


def move(plane: DataPlane, *indices: int) -> None:
    """Ray drains the node of these."""
    for index, name in enumerate(plane.shard_names):
        plane.applications[name] = replace(plane.applications[name], moved=index in indices)


def test_shards_that_ray_moves_off_a_node_are_emptied_first(make_plane) -> None:
    plane = make_plane(shards=3, slotsPerShard=4)
    plane.settle()
    move(plane, 1)
    intent = plane.decide()
    assert held(intent)[1] == 0
    plane.run()
    move(plane, 1)
    assert said(plane) == "True Drained"
    # It runs elsewhere.
    move(plane)
    plane.recorded = True
    assert all(held(plane.run()))
    assert said(plane) == ""


def test_of_shards_that_are_moved_as_many_are_emptied_as_there_is_room_for_and_the_rest_once_they_run_elsewhere(
    make_plane,
) -> None:
    plane = make_plane(shards=4, slotsPerShard=4)
    plane.settle()
    move(plane, 0, 1, 2, 3)
    assert [shard for shard, copies in enumerate(held(plane.run())) if not copies] == [0, 1]
    move(plane, 0, 1, 2, 3)
    assert said(plane) == "False Draining"
    assert message(plane).startswith("of those that must leave a node that goes away, shards 0, 1 first")
    assert "shards 2, 3 once there is room" in message(plane)
    plane.recorded = True
    move(plane, 2, 3)
    assert [shard for shard, copies in enumerate(held(plane.run())) if not copies] == [2, 3]
    move(plane, 2, 3)
    assert said(plane) == "True Drained"


def empty_ones(intent: Intent) -> list[int]:
    return [shard for shard, copies in enumerate(held(intent)) if not copies]


def test_a_node_that_goes_away_later_does_not_fill_again_what_is_being_emptied(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=4)
    plane.settle()
    plane.settled = False
    move(plane, 2, 3)
    assert empty_ones(plane.run()) == [2, 3]
    move(plane, 0, 1, 2, 3)
    assert empty_ones(plane.decide()) == [2, 3]


@pytest.mark.parametrize("phase", ["Starting", "Ready"])
def test_nor_does_one_that_holds_nothing_for_a_look(make_plane, phase: str) -> None:
    """As one that does not tell yet where it listens."""
    plane = make_plane(shards=4, slotsPerShard=4)
    plane.settle()
    plane.settled = False
    move(plane, 2, 3)
    plane.run()
    report = plane.report()
    other = report.shards[0].model_copy(update={"phase": phase, "held": 0})
    plane.more = {"report": report.model_copy(update={"shards": (other, *report.shards[1:])})}
    move(plane, 0, 2, 3)
    assert empty_ones(plane.decide()) == [2, 3]


def test_those_of_them_that_are_lost_come_first(make_plane) -> None:
    """One whose pod was evicted: copies that are made of the others' must not wait for it."""
    plane = make_plane(shards=4, slotsPerShard=4)
    plane.settle()
    plane.run()
    report = plane.report()
    lost = report.shards[3].model_copy(update={"phase": "Lost", "held": 0})
    plane.more = {"report": report.model_copy(update={"shards": (*report.shards[:3], lost)})}
    move(plane, 0, 1, 2, 3)
    assert [shard for shard, copies in enumerate(held(plane.decide())) if not copies] == [0, 3]


def test_where_there_is_no_room_for_what_ray_moves_it_is_told(make_plane) -> None:
    plane = make_plane(shards=3, slotsPerShard=4)
    plane.settle()
    annotate(plane, "0")
    plane.settle()
    before = plane.run().target
    move(plane, 1)
    assert plane.decide().target == before
    assert said(plane) == "False DrainRefused"
    assert message(plane).startswith("shard 1 must leave a node that goes away, and the other shards")


def test_a_placement_on_a_drained_shard_does_not_fit(make_plane) -> None:
    plane = make_plane(shards=3, slotsPerShard=8)
    plane.settle()
    annotate(plane, "1")
    plane.settle()
    revision = plane.run().target.revision
    written = stored(content(moved(shards=3, slots=8), revision + 1, revision, FACTS.digest), decision="Approved")
    plane.more = {"book": Book.of([written])}
    judgement = plane.decide().choice.judgements[revision + 1]
    assert judgement.reason is PlacementReason.SHARD_DRAINED
    assert "places experts on shard 1, which is being drained" in judgement.message


class Annotations(dict[str, str]):
    """Counts how often they are read."""

    reads = 0

    def get(self, key: str, default: Any = None) -> Any:
        self.reads += 1
        return super().get(key, default)


def annotated(annotations: dict[str, str]) -> MoEDeployment:
    moe = deployment()
    metadata = moe.metadata.model_copy(update={"annotations": annotations})
    return moe.model_copy(update={"metadata": metadata})


@given(st.text(alphabet="0123456789, -x", max_size=40), st.integers(1, 12))
def test_every_entry_is_a_shard_or_told(text: str, shards: int) -> None:
    found, unknown = named(annotated({ANNOTATION_DRAIN: text}), shards)
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    assert set(found) == {int(word) for word in words if word.isdecimal() and int(word) < shards}
    assert len(unknown) == sum(not (word.isdecimal() and int(word) < shards) for word in words)


@given(st.lists(st.integers(0, 12), max_size=8), st.integers(0, 6), st.integers(0, 12), st.integers(1, 4))
def test_as_few_shards_run_as_the_drain_leaves_enough_of(
    drained: list[int], wanted: int, there: int, copies: int
) -> None:
    moe, needs = annotated({ANNOTATION_DRAIN: ",".join(map(str, drained))}), Needs(8, copies, 8)
    left = {n: n - len(named(moe, n)[0]) for n in range(wanted, there + 1)}
    enough = [n for n in left if left[n] == n or left[n] >= needs.shards]
    assert fewest_beside(moe, wanted, there, needs) == min(enough, default=wanted)


def test_a_long_annotation_is_read_once_however_many_shards_there_are() -> None:
    annotations = Annotations({ANNOTATION_DRAIN: ",".join(map(str, range(1024)))})
    assert fewest_beside(annotated(annotations), 1, 1024, Needs(1024, 1, 8)) == 1
    assert annotations.reads == 1


@pytest.mark.slow
@settings(max_examples=20)
@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(1, 6), st.sets(st.integers(0, 5)), st.integers(1, 3)), min_size=1, max_size=6),
)
def test_whatever_is_wished_every_expert_has_its_copies_and_drained_shards_have_none(
    copies: int, wishes: list[tuple[int, set[int], int]]
) -> None:
    """Of each wish, as of the next before the former one is reached."""
    plane = DataPlane(deployment(shards=3, slotsPerShard=6, copies={"min": copies}), recorded=True)
    plane.settle()
    for number, drained, passes in wishes:
        plane.change(shards=number, slotsPerShard=6, copies={"min": copies})
        annotate(plane, ",".join(map(str, sorted(drained))))
        plane.settled = False
        for _ in range(passes):
            intent = plane.run()
            placement: Placement = decode_placement(intent.target.placement)
            assert placement.copies.min() >= copies
            assert (placement.layers, placement.experts) == (FACTS.layers, FACTS.experts)
        plane.settled = True
        plane.settle()
        intent = plane.run()
        emptied = [shard for shard, count in enumerate(held(intent)) if not count]
        assert len(slots(intent)) == len(shards(intent)) >= number
        refused = said(plane).endswith("DrainRefused")
        assert emptied == ([] if refused else [shard for shard in sorted(drained) if shard < len(slots(intent))])
