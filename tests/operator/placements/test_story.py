"""What is told of a placement as it comes, waits, runs and goes."""

from datetime import timedelta
from typing import Any

import pytest
from epochs import epoch_figures
from placement_objects import content, moved, stored

from moe_contract.report import EpochFigures, Pace
from moe_operator.api import (
    ExpertPlacement,
    ExpertPlacementStatus,
    PlacementConditionType,
    PlacementReason,
    RollbackPolicy,
)
from moe_operator.api.placement import MigrationProgress, Origin, Price
from moe_operator.placements.choice import Choice, Next, Standing, WayBack
from moe_operator.placements.story import Scene, next_status, recorded_status
from moe_operator.placements.trial import Terms
from moe_operator.placements.validity import Judgement, Outlook

BODY = content(moved())
NOW, LATER = "2026-01-02T03:04:05Z", "2026-01-02T03:05:05Z"
FITS = Judgement(Outlook.FITS, PlacementReason.FITS, "it fits")
WAITS = Judgement(Outlook.WAITS, PlacementReason.BASE_NOT_REACHED, "it waits")
UNFIT = Judgement(Outlook.UNFIT, PlacementReason.OTHER_SHAPE, "it does not fit")
NEVER = Judgement(Outlook.NEVER, PlacementReason.STALE_BASE, "it is too late")


def scene(revision: int = 1, judgement: Judgement | None = None, now: str = NOW, **more: Any) -> Scene:
    standing = more.pop("standing", Standing.EXPRESSED)
    following = Next(number, moved()) if (number := more.pop("next", None)) else None
    judgements = {2: judgement} if judgement else {}
    moves = {2: 3} if judgement is FITS else {}
    known = {"settled": True, "progress": MigrationProgress(copied=4, total=16, epoch=9), "bytes_per_expert": 100}
    return Scene(
        Choice(
            standing,
            following,
            more.pop("back", None),
            judgements=judgements,
            moves=moves,
            reverted=more.pop("reverted", {}),
        ),
        revision,
        **{**known, "balance": "0.90", "fan_out": "1.50", "now": now, **more},
    )


def told(placement: ExpertPlacement, *scenes: Scene) -> ExpertPlacementStatus:
    status = placement.status
    for each in scenes:
        status = next_status(placement.model_copy(update={"status": status}), each)
    return status


def conditions(status: ExpertPlacementStatus) -> dict[str, str]:
    return {condition.type: f"{condition.status} {condition.reason}" for condition in status.conditions}


@pytest.mark.parametrize(
    ("decision", "judgement", "phase", "valid", "approved"),
    [
        ("Pending", FITS, "Proposed", "True Fits", "False Pending"),
        ("Pending", WAITS, "Proposed", "Unknown BaseNotReached", "False Pending"),
        # It may fit again: an edit of the MoEDeployment is undone.
        ("Pending", UNFIT, "Proposed", "False OtherShape", "False Pending"),
        ("Pending", NEVER, "Failed", "False StaleBase", "False Pending"),
        ("Approved", FITS, "Approved", "True Fits", "True Approved"),
        ("Approved", WAITS, "Approved", "Unknown BaseNotReached", "True Approved"),
        ("Approved", UNFIT, "Failed", "False OtherShape", "True Approved"),
        ("Approved", NEVER, "Failed", "False StaleBase", "True Approved"),
        ("Rejected", FITS, "Rejected", "True Fits", "False Rejected"),
        ("Rejected", NEVER, "Rejected", "False StaleBase", "False Rejected"),
    ],
)
def test_before_it_begins(decision: str, judgement: Judgement, phase: str, valid: str, approved: str) -> None:
    status = told(stored(BODY, decision=decision), scene(1, judgement))
    assert status.phase == phase
    assert (conditions(status)["Valid"], conditions(status)["Approved"]) == (valid, approved)
    assert conditions(status)["Migrated"] == "False NotStarted"
    assert status.origin is Origin.PERSON
    assert status.price == (Price(moves=3, bytes=300) if judgement is FITS else None)
    assert (status.progress, status.balance) == (None, None)


def test_its_life() -> None:
    placement = stored(BODY, decision="Approved")
    approved = told(placement, scene(1, FITS))
    moving = told(placement, scene(1, FITS), scene(2, settled=False))
    assert (moving.phase, moving.progress) == ("Migrating", MigrationProgress(copied=4, total=16, epoch=9))
    assert conditions(moving)["Migrated"] == "False Migrating"
    assert "4 of 16 expert copies are in place" in [c.message for c in moving.conditions]
    assert moving.price == approved.price
    active = told(placement, scene(1, FITS), scene(2, settled=False), scene(2, now=LATER))
    assert active.phase == "Active"
    assert conditions(active) == {
        "Valid": "True Fits",
        "Approved": "True Approved",
        "Migrated": "True InForce",
        "Verified": "Unknown NotVerified",
        "Active": "True InForce",
    }
    assert {c.type: c.last_transition_time for c in active.conditions} == {
        "Valid": NOW,
        "Approved": NOW,
        "Migrated": LATER,
        "Verified": LATER,
        "Active": LATER,
    }
    assert (active.balance, active.fan_out) == ("0.90", "1.50")
    # A shard is lost and comes back: it stays what is in force.
    assert told(placement.model_copy(update={"status": active}), scene(2, settled=False)).phase == "Active"
    asleep = told(placement.model_copy(update={"status": active}), scene(0, standing=Standing.NOTHING_RUNS))
    assert (asleep.phase, conditions(asleep)["Active"]) == ("Active", "False NothingRuns")
    gone = told(placement.model_copy(update={"status": active}), scene(3, balance="0.10"))
    assert (gone.phase, gone.balance) == ("Superseded", "0.90")
    assert conditions(gone)["Active"] == "False Superseded"
    assert conditions(gone)["Migrated"] == "True InForce"
    assert told(placement.model_copy(update={"status": gone}), scene(3, now=LATER)) == gone


def proposal(revision: int = 2, base: int = 1, decision: str = "Pending", **status: Any) -> ExpertPlacement:
    """One that the operator wrote for what it foretells."""
    foretold = {"balance": "0.9000", "fanOut": "1.2000", "nodeFanOut": "0.0000"}
    told = {"phase": "Proposed", "origin": "Operator", "predicted": foretold, **status}
    return stored(BODY | {"revision": revision, "baseRevision": base}, told, decision=decision)


def observed(revision: int, balance: float, epoch: int = 9, rows: int = 5000) -> EpochFigures:
    return epoch_figures(epoch, revision=revision, rows=rows, balance=balance)


TERMS = Terms(timedelta(seconds=60), RollbackPolicy.AUTO)
BEFORE = observed(1, 0.8, epoch=8)


@pytest.mark.parametrize(
    ("approved_by", "balance", "phase", "verified"),
    [
        ("Operator", 0.9, "Active", "True Verified"),
        ("Operator", 0.5, "Verifying", "False GainMissing"),
        ("Person", 0.5, "Active", "False KeptThoughWorse"),
    ],
)
def test_one_that_arrived_is_observed_first(approved_by: str, balance: float, phase: str, verified: str) -> None:
    figures = {"terms": TERMS, "epochs": (BEFORE, observed(2, balance)), "in_force": 9}
    starts = scene(1, FITS, terms=TERMS, epochs=(BEFORE,), in_force=8, next=2)
    moving = scene(2, settled=False, **figures)
    placement = proposal(decision="Approved", approvedBy=approved_by)
    arrived = told(placement, starts, moving, scene(2, **figures))
    assert (arrived.phase, conditions(arrived)["Verified"]) == ("Verifying", "Unknown Observing")
    assert conditions(arrived)["Active"] == "True InForce"
    assert arrived.before is not None
    assert (arrived.before.balance, arrived.before.rows) == ("0.8000", 5000)
    # A shard that is lost and comes back changes nothing of that, nor does another pass.
    assert told(placement.model_copy(update={"status": arrived}), moving) == arrived
    judged = told(placement.model_copy(update={"status": arrived}), scene(2, now=LATER, **figures))
    assert (judged.phase, conditions(judged)["Verified"]) == (phase, verified)
    assert judged.measured is not None
    assert judged.measured.balance == f"{balance:.4f}"


def test_what_its_base_took_for_a_token_is_counted_when_it_begins() -> None:
    """What was reckoned of it when it was proposed tells no latency."""
    pace = Pace(rows=8, tokens=900, lower=0.0095, median=0.01, upper=0.0105)
    timed = BEFORE.model_copy(update={"paces": (pace,), "rows_per_second": 50.0, "context": 300.0})
    placement = proposal(decision="Approved", before={"balance": "0.7", "fanOut": "1.7", "rows": 4000})
    waiting = told(placement, scene(1, FITS, terms=TERMS, epochs=(timed,), in_force=8))
    assert waiting.before == placement.status.before, "it has not begun"
    starts = scene(1, FITS, terms=TERMS, epochs=(timed,), in_force=8, next=2)
    later = scene(2, settled=False, terms=TERMS, epochs=(BEFORE,), in_force=9)
    before = told(placement, starts, later).before
    assert before is not None and before.latency is not None
    assert (before.balance, before.rows, before.rows_per_second, before.context) == ("0.7", 4000, "50", "300")
    assert [each.median_microseconds for each in before.latency] == [10_000]
    # A data plane that measures none.
    assert told(placement, scene(1, FITS, epochs=(BEFORE,), in_force=8, next=2)).before == placement.status.before


def test_one_that_is_condemned_goes_when_what_was_before_comes_back() -> None:
    figures = {"terms": TERMS, "epochs": (BEFORE, observed(2, 0.5)), "in_force": 9}
    placement = proposal(decision="Approved", approvedBy="Operator")
    condemned = told(
        placement, scene(1, FITS, epochs=(BEFORE,), next=2), scene(2, **figures), scene(2, now=LATER, **figures)
    )
    assert (condemned.phase, conditions(condemned)["Verified"]) == ("Verifying", "False GainMissing")
    condemned_one = placement.model_copy(update={"status": condemned})
    assert told(condemned_one, scene(3)).phase == "Verifying", "what runs cannot be read"
    back = told(condemned_one, scene(3, reverted={2: True}))
    assert (back.phase, conditions(back)["Active"]) == ("RolledBack", "False RolledBack")
    assert back.condition(PlacementConditionType.VERIFIED) == condemned.condition(PlacementConditionType.VERIFIED)
    # A scale may come first, while somebody paused it: then nothing was rolled back.
    overtaken = told(condemned_one, scene(3, reverted={2: False}))
    assert (overtaken.phase, conditions(overtaken)["Verified"]) == ("Superseded", "False Superseded")
    (said,) = [each.message for each in overtaken.conditions if each.type == "Verified"]
    assert "balance 0.800 -> 0.500" in said
    assert said.endswith("; a later placement took its place before it was taken back")
    assert told(placement.model_copy(update={"status": overtaken}), scene(3, reverted={})) == overtaken
    # Where there is no way back, it stays.
    stuck = told(condemned_one, scene(2, back=WayBack(None, "revision 1 is gone"), **figures))
    assert (stuck.phase, conditions(stuck)["Verified"]) == ("Active", "False KeptThoughWorse")


def test_one_that_is_overtaken_while_it_is_observed() -> None:
    figures = {"terms": TERMS, "epochs": (observed(2, 0.5),), "in_force": 9}
    placement = proposal(decision="Approved", approvedBy="Operator")
    status = told(placement, scene(2, **figures), scene(3))
    assert (status.phase, conditions(status)["Verified"]) == ("Superseded", "Unknown Superseded")


def test_a_proposal_that_fits_no_more_is_over() -> None:
    """What a person wrote may fit again; of a proposal another one is made."""
    assert told(proposal(), scene(1, UNFIT)).phase == "Failed"
    assert told(proposal(), scene(1, WAITS)).phase == "Proposed"


def test_one_that_is_overtaken_on_its_way() -> None:
    status = told(stored(BODY, decision="Approved"), scene(1, FITS), scene(2, settled=False), scene(3))
    assert (status.phase, conditions(status)["Migrated"]) == ("Superseded", "False Superseded")


def test_a_restarted_operator_tells_all_that_happened_meanwhile() -> None:
    assert told(stored(BODY, decision="Approved"), scene(2)).phase == "Active"


def test_an_approval_that_comes_too_late() -> None:
    failed = told(stored(BODY), scene(1, NEVER))
    status = told(stored(BODY, decision="Approved").model_copy(update={"status": failed}), scene(1))
    assert status.phase == "Failed"
    assert conditions(status)["Approved"] == "False Failed"
    assert conditions(status)["Valid"] == "False StaleBase"


def test_other_content_under_the_revision_that_runs_is_not_what_runs() -> None:
    taken = Judgement(Outlook.NEVER, PlacementReason.REVISION_TAKEN, "taken")
    status = told(stored(BODY, decision="Approved"), scene(2, taken, standing=Standing.CONTRADICTED))
    assert (status.phase, status.balance) == ("Failed", None)


@pytest.mark.parametrize(
    ("revision", "standing", "active"),
    [
        (2, Standing.EXPRESSED, "True InForce"),
        (2, Standing.CONTRADICTED, "False RevisionTaken"),
        (2, Standing.NOTHING_RUNS, "Unknown NotJudged"),
        (1, Standing.EXPRESSED, "False Superseded"),
        (0, Standing.NOTHING_RUNS, "False NothingRuns"),
    ],
)
def test_only_what_runs_is_active(revision: int, standing: Standing, active: str) -> None:
    status = told(stored(BODY, {"phase": "Active"}, decision="Approved"), scene(revision, standing=standing))
    assert conditions(status)["Active"] == active


def test_one_that_the_operator_made_goes_on_to_be_active() -> None:
    made = recorded_status(scene(2), 5)
    assert (made.origin, made.price) == (Origin.OPERATOR, Price(moves=5, bytes=500))
    status = told(stored(BODY, decision="Approved").model_copy(update={"status": made}), scene(2))
    assert (status.phase, status.origin, status.price) == ("Active", Origin.OPERATOR, made.price)


def test_the_command_that_approves_is_of_this_object_and_not_of_a_later_one_of_its_name() -> None:
    made = proposal()
    found = told(made, scene(1, FITS)).condition(PlacementConditionType.APPROVED)
    assert found is not None
    assert f'\'{{"metadata":{{"uid":"{made.metadata.uid}"}},"spec":{{"decision":"Approved"}}}}\'' in found.message
