"""What shall run, step by step: creation, scaling, slots and copies."""

from dataclasses import replace
from typing import Any

import pytest
from intents import shards, slots, told
from moe_facts import FACTS

from moe_contract.applications import application_name
from moe_contract.sizes import MOST_SLOTS
from moe_operator.api import Reason
from moe_operator.reconcile.intent import Step
from moe_operator.reconcile.placing import impossible
from moe_placement.encoding import decode_placement

CORE = application_name("team", "tiny", "u-1")


def test_creation_core_first_then_all_shards_with_the_first_placement(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.facts = None
    assert told(plane.run()) == ([], (), 0)
    assert told(plane.run()) == ([], (), 0)
    plane.facts = type(plane).__dataclass_fields__["facts"].default
    assert told(plane.run()) == ([0, 1], (4, 4), 1)
    assert told(plane.run()) == ([0, 1], (4, 4), 1)


@pytest.mark.parametrize(
    ("before", "after", "steps"),
    [
        # Up: the new shards and the placement over all of them at once; the directory moves copies before it frees any.
        (1, 3, [([0, 1, 2], (8, 8, 8), 2)] * 2),
        (2, 4, [([0, 1, 2, 3], (4, 4, 4, 4), 2)] * 2),
        # Down: first those that leave must hold nothing, then they go.
        (4, 2, [([0, 1, 2, 3], (4, 4, 0, 0), 2), ([0, 1], (4, 4), 3), ([0, 1], (4, 4), 3)]),
        (3, 1, [([0, 1, 2], (8, 0, 0), 2), ([0], (8,), 3), ([0], (8,), 3)]),
    ],
)
def test_scaling(make_plane, before: int, after: int, steps: list[Any]) -> None:
    kept = 8 if 1 in (before, after) else 4
    plane = make_plane(shards=before, slotsPerShard=kept)
    plane.settle()
    plane.change(shards=after, slotsPerShard=kept)
    assert [told(plane.run()) for _ in steps] == steps


def test_a_shard_leaves_only_when_it_holds_nothing_and_the_directory_has_settled(make_plane) -> None:
    plane = make_plane(shards=3, slotsPerShard=8)
    plane.settle()
    plane.change(shards=1, slotsPerShard=8)
    plane.settled = False
    for _ in range(3):
        assert told(plane.run()) == ([0, 1, 2], (8, 0, 0), 2)
    plane.settled = True
    assert told(plane.run()) == ([0], (8,), 3)


@pytest.mark.parametrize("copies", [1, 2])
def test_what_the_directory_was_told_cannot_be_read(make_plane, copies: int) -> None:
    """No shard goes: without a report nothing is written; by a report they are emptied before they leave."""
    plane = make_plane(shards=4, slotsPerShard=8, copies={"min": copies})
    plane.settle()
    report = plane.report()
    plane.change(shards=2, slotsPerShard=8, copies={"min": copies})
    plane.told[plane.name] = replace(plane.told[plane.name], directory=None)
    plane.more = {"report": None}
    intent = plane.run()
    assert intent.step is Step.NOTHING
    assert intent.problem.reason is Reason.DIRECTORY_UNREACHABLE
    assert len(plane.shard_names) == 4
    plane.more = {"report": report}
    assert told(plane.run()) == ([0, 1, 2, 3], (8, 8, 0, 0), report.revision + 1)
    plane.more = {}
    assert told(plane.run()) == ([0, 1], (8, 8), report.revision + 2)


def test_a_new_directory_that_refuses_what_it_was_told_takes_no_shard_along(make_plane) -> None:
    plane = make_plane(shards=4, slotsPerShard=8)
    plane.settle()
    plane.change(shards=2, slotsPerShard=8)
    plane.told[plane.name] = replace(plane.told[plane.name], directory=None)
    plane.placement, plane.settled = None, False
    assert shards(plane.run()) == [0, 1, 2, 3]


def test_a_change_of_mind_while_shards_are_leaving(make_plane) -> None:
    plane = make_plane(shards=4)
    plane.settle()
    plane.change(shards=4, slotsPerShard=4)
    plane.settle()
    plane.change(shards=2, slotsPerShard=4)
    plane.settled = False
    assert told(plane.run()) == ([0, 1, 2, 3], (4, 4, 0, 0), 3)
    plane.change(shards=3, slotsPerShard=4)
    assert told(plane.run()) == ([0, 1, 2, 3], (4, 4, 4, 0), 4)
    plane.settled = True
    assert told(plane.run()) == ([0, 1, 2], (4, 4, 4), 5)


def test_removing_empty_shards_moves_no_expert(make_plane) -> None:
    plane = make_plane(shards=5, slotsPerShard=3)
    plane.settle()
    plane.change(shards=3, slotsPerShard=3)
    draining = decode_placement(plane.run().target.placement)
    trimmed = decode_placement(plane.run().target.placement)
    assert trimmed.slots.tolist() == draining.slots.tolist()


def test_slots_are_kept_from_creation(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=4)
    assert slots(plane.run()) == (4, 4, 4, 4)
    plane.settle()
    assert plane.moe.status.slots_per_shard == 4
    # Of four slots each, no fewer than two hold eight experts.
    plane.change(shards=1)
    plane.settle()
    assert plane.moe.status.shards == 2


WOKEN = [
    # asked for, and how many run: an autoscaler that wakes goes from 0 to 1 first
    ({"shards": 1, "copies": {"min": 2}}, (8, 8)),
    ({"shards": 3, "copies": {"min": 2}}, (6, 6, 6)),
    ({"shards": 1, "slotsPerShard": 3}, (3, 3, 3)),
    ({"shards": 2, "slotsPerShard": 3, "copies": {"min": 2}}, (3, 3, 3, 3, 3, 3)),
    ({"shards": 1, "slotsPerShard": 100, "copies": {"min": 2}}, (100, 100)),
    ({"shards": 5, "slotsPerShard": 3}, (3, 3, 3, 3, 3)),
]


@pytest.mark.parametrize(("experts", "runs"), WOKEN)
def test_what_runs_is_at_least_what_the_copies_need(make_plane, experts: Any, runs: tuple[int, ...]) -> None:
    plane = make_plane(**experts)
    plane.settle()
    assert slots(plane.run()) == runs
    status = plane.tell()
    assert (status.shards, status.ready_shards) == (len(runs), len(runs))
    progressing = status.condition("Progressing")
    assert progressing.reason == "Settled"
    more = f"spec.experts.shards is {experts['shards']}, and {len(runs)} run"
    assert progressing.message.startswith(more if len(runs) > experts["shards"] else "what runs is what the spec")


def test_it_stays_so_when_it_is_scaled_below(make_plane) -> None:
    plane = make_plane(shards=4, copies={"min": 2}, slotsPerShard=8)
    plane.settle()
    plane.change(shards=1, copies={"min": 2}, slotsPerShard=8)
    plane.settle(8)
    assert (slots(plane.run()), plane.moe.status.shards) == ((8, 8), 2)
    plane.change(shards=0, copies={"min": 2}, slotsPerShard=8)
    assert (intent := plane.run()).step is Step.SLEEP
    assert intent.desired is None


@pytest.mark.parametrize("told", [-1, 0, 1, 3, 8, 2**40])
def test_slots_that_a_status_tells_are_believed_only_without_ray_and_within_reason(make_plane, told: int) -> None:
    """Anybody with the right to write a status may have written it."""
    plane = make_plane(shards=2)
    plane.settle()
    forged = plane.moe.status.model_copy(update={"slots_per_shard": told})
    plane.moe = plane.moe.model_copy(update={"status": forged})
    assert slots(plane.run()) == (4, 4)
    plane.forget()
    plane.moe = plane.moe.model_copy(update={"status": forged})
    plane.run()
    assert slots(plane.run())[0] == {-1: 4, 0: 4, 2**40: 8}.get(told, told)


@pytest.mark.parametrize(("told", "revision"), [(7, 8), (-7, 1), (2**63 - 1, 1)])
def test_a_revision_that_a_status_tells(make_plane, told: int, revision: int) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    placed = plane.moe.status.placement.model_copy(update={"revision": told})
    forged = plane.moe.status.model_copy(update={"placement": placed})
    plane.moe = plane.moe.model_copy(update={"status": forged})
    assert plane.run().target.revision == 1
    plane.forget()
    plane.placement = None
    plane.run()
    assert plane.run().target.revision == revision


@pytest.mark.parametrize(
    ("prefix", "reserved"),
    [
        ("/b", False),
        ("/", False),
        ("/team", False),
        ("/team/other/deep", False),
        ("/Team/x", False),
        ("/v1.0/x", False),
        ("/other", False),
        ("/other/tiny", True),
        ("/other/tiny/v1", True),
        ("/kube-system/x", True),
    ],
)
def test_what_is_below_the_name_of_another_namespace_is_its_own(make_plane, prefix: str, reserved: bool) -> None:
    plane = make_plane(shards=2, spec={"serving": {"routePrefix": prefix}})
    intent = plane.run()
    assert intent.step is (Step.NOTHING if reserved else Step.RUN)
    status = plane.tell()
    assert (status.condition("Degraded").reason == "RoutePrefixReserved") == reserved


def test_what_runs_goes_on_when_its_prefix_becomes_another_namespaces(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec={"serving": {"routePrefix": "/other/tiny"}})
    plane.settle()
    status = plane.tell()
    assert (status.condition("Ready").status, status.condition("Degraded").reason) == ("True", "RoutePrefixReserved")
    assert status.url == "http://ray:8000/team/tiny/v1"
    assert "one below /team" in status.condition("Degraded").message


def test_slots_follow_another_model(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, spec={"model": {"source": {"path": "models/other"}}})
    plane.candidate = plane.facts.model_copy(update={"digest": "sha256:2", "experts": 16})
    assert [plane.run().step for _ in range(2)] == [Step.RUN, Step.REPLACE]
    plane.facts = plane.candidate
    plane.run()
    assert slots(plane.run()) == (8, 8)


def test_more_copies_and_more_slots(make_plane) -> None:
    plane = make_plane(shards=2)
    plane.settle()
    plane.change(shards=2, copies={"min": 16})
    refused = plane.run()
    assert refused.problem.reason == Reason.INSUFFICIENT_SLOTS
    assert refused.problem.message == (
        "spec.experts: 8 experts in 16 copies do not fit on shards of 4 slots per layer, of which there can be 8, as "
        "many as experts: use fewer copies"
    )
    assert told(refused) == ([0, 1], (4, 4), 1)
    plane.change(shards=2, copies={"min": 2}, slotsPerShard=8)
    accepted = plane.run()
    assert told(accepted) == ([0, 1], (8, 8), 2)
    assert accepted.target.min_copies == 2
    assert decode_placement(accepted.target.placement).copies.min() == 2


@pytest.mark.parametrize(
    ("experts", "copies", "cure"),
    [
        (MOST_SLOTS, 1, "use fewer shards, or fewer slotsPerShard"),
        (MOST_SLOTS, 2, "use fewer copies"),
        (MOST_SLOTS + 1, 1, "use a smaller model"),
        (MOST_SLOTS + 1, 2, "use a smaller model"),
    ],
)
def test_of_what_is_too_large_only_cures_that_help_are_named(make_plane, experts: int, copies: int, cure: str) -> None:
    facts = FACTS.model_copy(update={"layers": 1, "experts": experts})
    moe = make_plane(shards=2, copies={"min": copies}).moe
    problem = impossible(moe, facts, slots=MOST_SLOTS)
    assert problem is not None
    assert problem.reason == Reason.PLACEMENT_TOO_LARGE
    assert problem.message.endswith(f" shards: {cure}")


def test_fewer_copies_leave_the_placement_as_it_is(make_plane) -> None:
    plane = make_plane(shards=2, copies={"min": 2}, slotsPerShard=8)
    plane.settle()
    plane.change(shards=2, slotsPerShard=8)
    intent = plane.run()
    assert told(intent) == ([0, 1], (8, 8), 1)
    assert intent.target.min_copies == 1


def test_a_shard_keeps_its_slots_until_fewer_are_settled(make_plane) -> None:
    plane = make_plane(shards=2, slotsPerShard=8)
    plane.settle()

    def given() -> list[int]:
        return list(plane.run().desired.slots.values())

    plane.change(shards=2, slotsPerShard=4)
    plane.settled = False
    assert given() == [8, 8]
    assert given() == [8, 8]
    plane.settled = True
    assert given() == [4, 4]
