"""What is migrated to next, and whether what runs has an object: tables of objects against data planes."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from placement_objects import content, moved, stored

from moe_operator.api import ExpertPlacement, PlacementReason, RollbackPolicy
from moe_operator.api.placement import Price
from moe_operator.placements.book import MOST_AHEAD, Book
from moe_operator.placements.choice import Choice, Standing, choose, unlooked_at
from moe_operator.placements.trial import Terms
from moe_operator.placements.validity import Ground
from moe_placement import Placement, balanced_placement

LAYERS, EXPERTS, SHARDS, SLOTS = 2, 8, 2, 4
RUNNING = balanced_placement(LAYERS, EXPERTS, (SLOTS,) * SHARDS)
OTHER = moved(LAYERS, EXPERTS, SHARDS, SLOTS)
TERMS = Terms(timedelta(minutes=5), RollbackPolicy.AUTO)


def xp(
    revision: int, base: int, decision: str = "Pending", phase: str | None = None, of: Placement = OTHER, **fields: Any
) -> ExpertPlacement:
    status = {"phase": phase} if phase else None
    return stored(content(of, revision, base) | fields, status, decision=decision)


def chosen(
    *placements: ExpertPlacement,
    revision: int = 1,
    running: Placement | None = RUNNING,
    terms: Terms | None = TERMS,
    **ground: Any,
) -> Choice:
    known = {"digest": "sha256:0", "layers": LAYERS, "experts": EXPERTS, "shards": SHARDS, "slots_per_shard": SLOTS}
    judged = Ground(**{**known, "min_copies": 1, "revision": revision, **ground})
    book = Book.of(placements)
    choice = choose(book, revision, running if revision else None, judged, terms)
    # What a worker process is given is enough to choose the same.
    assert choose(book.for_choice(revision), revision, running if revision else None, judged, terms) == choice
    return choice


def next_of(*placements: ExpertPlacement, **scene: Any) -> int | None:
    choice = chosen(*placements, **scene)
    return choice.next.revision if choice.next else None


RAN = xp(1, 0, "Approved", "Active", RUNNING)


@pytest.mark.parametrize(
    ("placements", "revision", "wanted"),
    [
        ([RAN], 1, None),
        ([RAN, xp(2, 1)], 1, None),
        ([RAN, xp(2, 1, "Rejected")], 1, None),
        ([RAN, xp(2, 1, "Approved")], 1, 2),
        ([RAN, xp(2, 1, "Approved", "Approved")], 1, 2),
        # Numbers may be left out.
        ([RAN, xp(7, 1, "Approved")], 1, 7),
        # Two at once: the first; the other is stale afterwards.
        ([RAN, xp(2, 1, "Approved"), xp(3, 1, "Approved")], 1, 2),
        ([xp(2, 1, "Approved", "Migrating"), xp(3, 1, "Approved")], 2, None),
        # One after the other.
        ([RAN, xp(2, 1, "Approved"), xp(3, 2, "Approved")], 1, 2),
        ([xp(2, 1, "Approved", "Active"), xp(3, 2, "Approved")], 2, 3),
        # Also while the one before is on its way.
        ([xp(2, 1, "Approved", "Migrating"), xp(3, 2, "Approved")], 2, 3),
        # What does not fit stands in nobody's way.
        ([RAN, xp(2, 1, "Approved", shards=3, layers=["0 1 2 3 4 5 6 7 - - - -"] * 2), xp(3, 1, "Approved")], 1, 3),
        ([RAN, xp(2, 1, "Approved", "Failed"), xp(3, 1, "Approved", "Superseded")], 1, None),
        # The first of all may be written by hand.
        ([xp(1, 0, "Approved")], 0, 1),
    ],
)
def test_what_is_migrated_to(placements: list[ExpertPlacement], revision: int, wanted: int | None) -> None:
    running = RUNNING if revision == 1 else OTHER
    assert next_of(*placements, revision=revision, running=running) == wanted


def test_what_is_migrated_to_is_what_the_object_says() -> None:
    choice = chosen(RAN, xp(2, 1, "Approved"))
    assert choice.next is not None
    assert choice.next.placement == OTHER
    moves = int((OTHER.held & ~RUNNING.held).sum())
    assert choice.moves == {2: moves}
    assert 0 < moves <= OTHER.slots.size


def test_nothing_is_begun_while_nothing_can_be_judged() -> None:
    choice = choose(Book.of([RAN, xp(2, 1, "Approved")]), 1, RUNNING, None, TERMS)
    assert choice.next is None
    assert choice.judgements[2].reason is PlacementReason.NOT_JUDGED


@pytest.mark.parametrize(
    ("placements", "standing"),
    [
        ([RAN], Standing.EXPRESSED),
        ([xp(1, 0, of=RUNNING)], Standing.EXPRESSED),
        ([], Standing.ABSENT),
        ([xp(2, 1, "Approved")], Standing.ABSENT),
        # Backups put back, objects made anew by hand: other content or model, decided otherwise, or over.
        ([xp(1, 0, "Approved", "Active", OTHER)], Standing.CONTRADICTED),
        ([xp(1, 0, "Approved", None, OTHER)], Standing.CONTRADICTED),
        ([xp(1, 0, "Approved", "Active", RUNNING, modelDigest="sha256:1")], Standing.CONTRADICTED),
        ([xp(1, 0, "Rejected", "Active", RUNNING)], Standing.CONTRADICTED),
        ([xp(1, 0, "Approved", "Superseded", RUNNING)], Standing.CONTRADICTED),
        ([xp(1, 0, "Approved", "Active", RUNNING, layers=["0 1 2 3 4 5 6 6"] * 2)], Standing.CONTRADICTED),
    ],
)
def test_what_the_objects_say_of_what_runs(placements: list[ExpertPlacement], standing: Standing) -> None:
    assert chosen(*placements).standing is standing


def test_leading_zeros_and_leaving_shards_are_no_contradiction() -> None:
    zeros = [line.replace("0", "00", 1) for line in RUNNING.to_strings()]
    leaving = Placement.of(RUNNING.slots, (SLOTS, SLOTS, 0), EXPERTS)
    ran = xp(1, 0, "Approved", "Active", RUNNING, layers=zeros)
    assert chosen(ran, running=leaving).standing is Standing.EXPRESSED
    wider = Placement.of(np.hstack([RUNNING.slots, RUNNING.slots[:, :SLOTS]]), (SLOTS,) * 3, EXPERTS)
    assert chosen(ran, running=wider).standing is Standing.CONTRADICTED


def test_another_placement_under_its_revision_is_told() -> None:
    judgement = chosen(xp(1, 0, "Approved", None, OTHER)).judgements[1]
    assert judgement.reason is PlacementReason.REVISION_TAKEN
    assert "spec.content.revision is 1, under which another placement runs" in judgement.message


def test_an_object_is_made_anew_from_what_runs() -> None:
    before = xp(3, 2, "Approved", "Active", OTHER)
    choice = chosen(before, revision=5)
    assert choice.record is not None
    assert choice.record.content.model_dump(mode="json", by_alias=True) == content(RUNNING, 5, 3)
    assert choice.record.moves == int((RUNNING.held & ~OTHER.held).sum())
    first = chosen(revision=1).record
    assert first is not None
    assert (first.content.base_revision, first.moves) == (0, LAYERS * EXPERTS)
    far = chosen(revision=5000).record
    assert far is not None
    assert far.content.base_revision == 4000


@pytest.mark.parametrize("scene", [{"running": None}, {"running": balanced_placement(1, 4, (3, 2))}])
def test_what_no_object_can_say_has_none(scene: dict[str, Any]) -> None:
    assert chosen(**scene).record is None


@pytest.mark.parametrize(
    ("placements", "wanted"),
    [
        ([xp(7, 6, "Approved", "Active")], 7),
        # The operator died before it had told of the last one.
        ([xp(7, 6, "Approved", "Active"), xp(8, 7, "Approved", "Migrating")], 8),
        ([xp(6, 5, "Approved", "Superseded"), xp(7, 6, "Approved", "RolledBack")], None),
        ([xp(7, 6, "Approved", "Active", modelDigest="sha256:1")], None),
        ([xp(7, 6, "Approved", "Active"), xp(8, 7, "Approved")], 7),
    ],
)
def test_after_a_sleep_or_the_loss_of_all_what_was_in_force_comes_back(
    placements: list[ExpertPlacement], wanted: int | None
) -> None:
    assert next_of(*placements, revision=0) == wanted


def proposed(revision: int, base: int, decision: str = "Pending", origin: str = "Operator") -> ExpertPlacement:
    """One that the operator wrote for what it foretells."""
    foretold = {"balance": "0.9", "fanOut": "1.2", "nodeFanOut": "0"}
    status = {"phase": "Proposed", "origin": origin, "predicted": foretold}
    return stored(content(OTHER, revision, base), status, decision=decision)


@pytest.mark.parametrize(
    ("placements", "gone"),
    [
        ([proposed(2, 1)], []),
        ([proposed(2, 1), proposed(3, 1)], [2]),
        ([proposed(2, 1), proposed(3, 1), proposed(4, 1)], [2, 3]),
        # What somebody decided on, and what a person wrote, is not replaced.
        ([proposed(2, 1, "Approved"), proposed(3, 1)], []),
        ([proposed(2, 1, origin="Person"), proposed(3, 1)], []),
        ([xp(2, 1), proposed(3, 1)], []),
        ([proposed(2, 1), xp(3, 1)], []),
    ],
)
def test_of_the_operators_proposals_the_last_stands(placements: list[ExpertPlacement], gone: list[int]) -> None:
    judgements = chosen(RAN, *placements).judgements
    superseded = [each for each, found in judgements.items() if found.reason is PlacementReason.SUPERSEDED]
    assert superseded == gone
    assert all(f"revision {placements[-1].revision} was proposed since" in judgements[each].message for each in gone)


def condemned(**fields: Any) -> ExpertPlacement:
    """One that arrived, and whose figures are worse."""
    told = {"observedGeneration": 1, "lastTransitionTime": "2026-01-02T03:04:05Z", "message": "worse"}
    verified = told | {"type": "Verified", "status": "False", "reason": "GainMissing"}
    status = {"phase": "Verifying", "origin": "Operator", "conditions": [verified]}
    return stored(content(OTHER, 2, 1) | fields, status, decision="Approved")


WENT = xp(1, 0, "Approved", "Superseded", RUNNING)


def test_what_is_condemned_has_a_way_back() -> None:
    back = chosen(WENT, condemned(), revision=2, running=OTHER).back
    assert back is not None
    assert (back.placement, back.why) == (RUNNING, "")
    # An approved one goes first; the condemned one is over then as well.
    choice = chosen(WENT, condemned(), xp(3, 2, "Approved", of=RUNNING), revision=2, running=OTHER)
    assert choice.next is not None
    assert choice.next.revision == 3


@pytest.mark.parametrize(
    ("before", "running", "reverted"),
    [([WENT], RUNNING, {2: True}), ([WENT], OTHER, {2: False}), ([WENT], None, {})],
)
def test_whether_what_runs_took_it_back(
    before: list[ExpertPlacement], running: Placement | None, reverted: dict[int, bool]
) -> None:
    choice = chosen(*before, condemned(), revision=3, running=running)
    assert (choice.reverted, choice.back) == (reverted, None)
    assert chosen(WENT, condemned(), revision=2, running=OTHER).reverted == {}, "it runs"


LOADED = {"moves": int((OTHER.held & ~RUNNING.held).sum()), "bytes": 1}


@pytest.mark.parametrize(
    ("price", "own", "running", "reverted"),
    [
        (LOADED, None, RUNNING, True),
        (LOADED, {"origin": "Operator"}, RUNNING, True),
        # What a person wrote, or was proposed for what it brings, took nothing back.
        (LOADED, {"origin": "Person"}, RUNNING, False),
        (LOADED, {"origin": "Operator", "predicted": {"balance": "1", "fanOut": "1"}}, RUNNING, False),
        # A scale, or a copy that was mended, went on from it.
        (LOADED, None, balanced_placement(LAYERS, EXPERTS, (SLOTS,) * 3), False),
        (LOADED, None, OTHER, False),
        (None, None, RUNNING, False),
    ],
)
def test_nor_is_that_unknown_once_the_object_of_what_was_before_is_gone(
    price: dict[str, Any] | None, own: dict[str, Any] | None, running: Placement, reverted: bool
) -> None:
    """Somebody deleted it, or it left with the history, before the way back was told."""
    went = condemned()
    went = went.model_copy(update={"status": went.status.model_copy(update={"price": price and Price(**price)})})
    made = [stored(content(running, 3, 2), {"phase": "Verifying", **own}, decision="Approved")] if own else []
    assert chosen(went, *made, revision=3, running=running).reverted == {2: reverted}


@pytest.mark.parametrize(
    ("before", "ground", "why"),
    [
        ([], {}, "there is no ExpertPlacement of revision 1 any more"),
        ([WENT], {"shards": 3}, "revision 1, which ran before, does not fit any more: spec.content.shards is 2"),
        ([WENT], {"min_copies": 2}, "revision 1, which ran before, does not fit any more: "),
    ],
)
def test_and_where_there_is_none_that_is_told(before: list[ExpertPlacement], ground: dict[str, Any], why: str) -> None:
    back = chosen(*before, condemned(), revision=2, running=OTHER, **ground).back
    assert back is not None
    assert back.placement is None
    assert back.why.startswith(why)


@pytest.mark.parametrize("terms", [None, replace(TERMS, paused=True), replace(TERMS, rollback=RollbackPolicy.NEVER)])
def test_nor_does_it_go_back_once_nobody_wants_that_any_more(terms: Terms | None) -> None:
    """It was condemned before the operator fell, or before somebody paused it or set mode Off or rollback Never."""
    choice = chosen(WENT, condemned(), revision=2, running=OTHER, terms=terms)
    assert (choice.next, choice.back) == (None, None)


def test_only_what_runs_goes_back() -> None:
    assert chosen(WENT, condemned(), revision=3, running=RUNNING).back is None
    assert choose(Book.of([WENT, condemned()]), 2, OTHER, None, TERMS).back is None
    assert chosen(WENT, xp(2, 1, "Approved", "Verifying"), revision=2, running=OTHER).back is None


def test_of_many_that_wait_as_many_are_looked_at_and_the_others_are_told_so() -> None:
    many = [xp(number, 1) for number in range(2, 2 + 3 * MOST_AHEAD)]
    assert set(chosen(RAN, *many).judgements) == set(range(2, 2 + MOST_AHEAD))
    told = unlooked_at(Book.of([RAN, *many]), 1)
    assert set(told) == set(range(2 + MOST_AHEAD, 2 + 3 * MOST_AHEAD))
    assert {each.reason for each in told.values()} == {PlacementReason.TOO_MANY_WAIT}
    assert all(part in told[2 + MOST_AHEAD].message for part in (f"{MOST_AHEAD} are looked at", "Rejected", "delete"))


def test_what_nobody_decided_on_does_not_stand_in_the_way_of_what_was_approved() -> None:
    many = [xp(number, 1) for number in range(2, 2 + 2 * MOST_AHEAD)]
    assert next_of(RAN, *many, xp(99, 1, "Approved")) == 99


def test_nor_do_approved_ones_that_wait_for_their_base() -> None:
    waiting = [xp(number, number - 1, "Approved") for number in range(3, 3 + 2 * MOST_AHEAD)]
    assert next_of(RAN, *waiting, xp(99, 1, "Approved")) == 99


def test_an_object_of_the_running_revision_that_nobody_can_read_is_a_contradiction() -> None:
    choice = choose(Book.of([], taken=[1]), 1, RUNNING, None, TERMS)
    assert (choice.standing, choice.record) == (Standing.CONTRADICTED, None)


def test_other_content_under_the_running_revision_is_told_however_many_wait() -> None:
    many = [xp(number, 1, "Approved") for number in range(2, 2 + 2 * MOST_AHEAD)]
    choice = chosen(xp(50, 40, of=OTHER), *many, revision=50)
    assert choice.judgements[50].reason is PlacementReason.REVISION_TAKEN
