"""What is told of an ExpertPlacement: its phase, conditions and figures. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from moe_contract.report import EpochFigures
from moe_operator.api import (
    Condition,
    ExpertPlacement,
    ExpertPlacementStatus,
    Phase,
    PlacementConditionType,
    PlacementReason,
)
from moe_operator.api.phase import Event
from moe_operator.api.placement import Decision, Figures, MigrationProgress, Origin, Price
from moe_operator.api.status import ConditionStatus, next_condition
from moe_operator.placements.book import is_proposal, phase_of
from moe_operator.placements.choice import Choice, Standing
from moe_operator.placements.trial import Terms, Trial, counted, is_condemned, is_on_trial, trial_of, unpaused
from moe_operator.placements.validity import Judgement, Outlook


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known of the deployment beside its objects.

    Attributes:
        choice: made from them.
        revision: that the directory was told last; 0 where nothing runs.
        settled: whether the directory is there.
        progress: how far it is, where it tells.
        bytes_per_expert: None before the model is known.
        balance, fan_out: of ``revision``, as counted.
        epochs: what was counted by routing table, those lately in force.
        in_force: number of the routing table in force.
        terms: by what placements are judged; None where they are not.
        now: UTC, as conditions have it.
        own_uid: of the object of ``revision`` that the choice was made from; None where there was none.
    """

    choice: Choice
    revision: int
    settled: bool
    progress: MigrationProgress | None
    bytes_per_expert: int | None
    balance: str | None
    fan_out: str | None
    now: str
    own_uid: str | None = None
    epochs: tuple[EpochFigures, ...] = ()
    in_force: int = 0
    terms: Terms | None = None


def next_status(
    placement: ExpertPlacement, scene: Scene, origin: Origin = Origin.PERSON, approved_by: Origin | None = None
) -> ExpertPlacementStatus:
    """What to tell of it now; what cannot be seen stays as it was told last.

    Args:
        origin, approved_by: where none was told yet.
    """
    told = placement.status
    who = {"origin": told.origin or origin, "approved_by": told.approved_by or approved_by}
    placement = placement.model_copy(update={"status": told.model_copy(update=who)})
    before = placement.status
    judgement = scene.choice.judgements.get(placement.revision)
    trial = _trial(placement, scene)
    phase = phase_of(placement).advanced(_events(placement, scene, judgement, trial))
    runs = _runs(placement, scene)
    return ExpertPlacementStatus(
        observed_generation=placement.metadata.generation,
        phase=phase,
        origin=before.origin,
        approved_by=before.approved_by,
        why=before.why,
        price=before.price or _price(scene.choice.moves.get(placement.revision), scene),
        predicted=before.predicted,
        before=_with_latency(before.before, _before(placement, scene)),
        measured=before.measured or (trial.measured if trial else None),
        progress=(scene.progress if runs else None) or before.progress,
        balance=(scene.balance if runs else None) or before.balance,
        fan_out=(scene.fan_out if runs else None) or before.fan_out,
        conditions=tuple(_conditions(placement, scene, judgement, trial, phase)),
    )


def proposed_status(met: Figures | None, predicted: Figures, price: Price | None, why: str) -> ExpertPlacementStatus:
    """The status of a proposal that the operator has just made; the next pass tells all else. ``met``: what its base
    meets."""
    return ExpertPlacementStatus(
        observed_generation=1,
        phase=Phase.PROPOSED,
        origin=Origin.OPERATOR,
        why=why,
        price=price,
        predicted=predicted,
        before=met,
    )


def recorded_status(scene: Scene, moves: int | None) -> ExpertPlacementStatus:
    """The status of an object that the operator has just made of what runs; the next pass tells all else."""
    return ExpertPlacementStatus(
        observed_generation=1,
        phase=Phase.PROPOSED.advanced((Event.APPROVED, Event.STARTED)),
        origin=Origin.OPERATOR,
        price=_price(moves, scene),
    )


def _runs(placement: ExpertPlacement, scene: Scene) -> bool:
    return placement.revision == scene.revision and scene.choice.standing is Standing.EXPRESSED


def _trial(placement: ExpertPlacement, scene: Scene) -> Trial | None:
    """The trial of what runs, from its arrival until it is decided whether it stays."""
    due = scene.settled or phase_of(placement) is Phase.VERIFYING
    if not _runs(placement, scene) or phase_of(placement) is Phase.ACTIVE or not due:
        return None
    # Under a table that came after its arrival: those on the way sent rows elsewhere.
    own = tuple(each for each in scene.epochs if each.epoch == scene.in_force)
    back = scene.choice.back
    return trial_of(
        placement, scene.terms, counted(own, placement.revision), scene.now, back.why if back and back.why else None
    )


def _before(placement: ExpertPlacement, scene: Scene) -> Figures | None:
    """What was counted of the base of a placement that is about to begin, or has just begun."""
    begins = scene.choice.next is not None and scene.choice.next.revision == placement.revision
    if not begins and not (_runs(placement, scene) and phase_of(placement) in (Phase.APPROVED, Phase.MIGRATING)):
        return None
    return counted(scene.epochs, placement.spec.content.base_revision) if is_on_trial(placement) else None


def _with_latency(told: Figures | None, counted: Figures | None) -> Figures | None:
    """What a base meets, with latency, which was not reckoned for a proposal and is counted before it begins."""
    if told is None or counted is None or told.latency is not None:
        return told or counted
    timed = {"latency": counted.latency, "rows_per_second": counted.rows_per_second, "context": counted.context}
    return told.model_copy(update=timed)


def _events(
    placement: ExpertPlacement, scene: Scene, judgement: Judgement | None, trial: Trial | None
) -> Iterator[Event]:
    """All events that happened to the placement, in order."""
    if _runs(placement, scene):
        yield from (Event.APPROVED, Event.STARTED)
        if scene.settled:
            yield Event.ARRIVED
        if trial and trial.stays:
            yield Event.KEPT
        return
    if scene.revision > placement.revision:
        yield from _replaced(placement, scene)
    decision = placement.spec.decision
    if decision is Decision.REJECTED:
        yield Event.REJECTED
    elif judgement and (judgement.outlook is Outlook.NEVER or _is_outdated(placement, judgement)):
        yield Event.FAULTED
    elif decision is Decision.APPROVED:
        yield Event.APPROVED
        if judgement and judgement.outlook is Outlook.UNFIT:
            yield Event.FAULTED


def _replaced(placement: ExpertPlacement, scene: Scene) -> Iterator[Event]:
    """Something later runs. What was to be taken back may have been overtaken by a scale or a person's wish, while a
    pause kept it: only what runs tells, and nothing is told before that is known."""
    reverted = scene.choice.reverted.get(placement.revision) if is_condemned(placement) else False
    if reverted is not None:
        yield Event.REVERTED if reverted else Event.OVERTAKEN


def _is_outdated(placement: ExpertPlacement, judgement: Judgement) -> bool:
    """Whether a proposal that waits fits no more, and another one is made. What a person wrote waits on: an edit of the
    MoEDeployment may be undone."""
    return judgement.outlook is Outlook.UNFIT and is_proposal(placement)


def _price(moves: int | None, scene: Scene) -> Price | None:
    if moves is None or scene.bytes_per_expert is None:
        return None
    return Price(moves=moves, bytes=moves * scene.bytes_per_expert)


@dataclass(frozen=True, slots=True)
class _Said:
    status: ConditionStatus
    reason: PlacementReason
    message: str


def _conditions(
    placement: ExpertPlacement, scene: Scene, judgement: Judgement | None, trial: Trial | None, phase: Phase
) -> Iterator[Condition]:
    told = {
        PlacementConditionType.VALID: _valid(placement, scene, judgement),
        PlacementConditionType.APPROVED: _approved(placement, phase),
        PlacementConditionType.MIGRATED: _migrated(placement, scene, phase),
        PlacementConditionType.VERIFIED: _verified(placement, trial, phase),
        PlacementConditionType.ACTIVE: _active(placement, scene, phase),
    }
    for kind, said in told.items():
        before = placement.status.condition(kind)
        if said is None:
            if before:
                yield before
            continue
        generation = placement.metadata.generation
        yield next_condition(before, kind, said.status, said.reason, said.message, generation, scene.now)


def _valid(placement: ExpertPlacement, scene: Scene, judgement: Judgement | None) -> _Said | None:
    if judgement:
        known: ConditionStatus = "Unknown" if judgement.outlook is Outlook.WAITS else "False"
        return _Said("True" if judgement.outlook is Outlook.FITS else known, judgement.reason, judgement.message)
    if _runs(placement, scene):
        return _Said("True", PlacementReason.FITS, "it is what the directory was told to run")
    return None


def _approved(placement: ExpertPlacement, phase: Phase) -> _Said | None:
    decision, before = placement.spec.decision, placement.status.condition(PlacementConditionType.APPROVED)
    if decision is Decision.PENDING:
        # With its uid: of an object made anew under the same name it is refused.
        patch = {"metadata": {"uid": placement.metadata.uid}, "spec": {"decision": "Approved"}}
        cure = f"set spec.decision, e.g. kubectl patch xp {placement.metadata.name} --type=merge -p "
        return _Said("False", PlacementReason.PENDING, f"{cure}'{json.dumps(patch, separators=(',', ':'))}'")
    if decision is Decision.REJECTED:
        return _Said("False", PlacementReason.REJECTED, "spec.decision is Rejected: it is never migrated to")
    late = phase_of(placement).is_end and (before is None or before.status != "True")
    if late and phase is Phase.FAILED:
        return _Said(
            "False", PlacementReason.FAILED, "spec.decision is Approved, too late: condition Valid says what is wrong"
        )
    return None if late else _Said("True", PlacementReason.APPROVED, "spec.decision is Approved")


def _migrated(placement: ExpertPlacement, scene: Scene, phase: Phase) -> _Said | None:
    if phase in (Phase.VERIFYING, Phase.ACTIVE):
        return _Said("True", PlacementReason.IN_FORCE, "every copy is in place, and what it replaced is freed")
    if phase is Phase.MIGRATING:
        far = scene.progress if _runs(placement, scene) else None
        message = f"{far.copied} of {far.total} expert copies are in place" if far else "the directory is being told"
        return _Said("False", PlacementReason.MIGRATING, message)
    before = placement.status.condition(PlacementConditionType.MIGRATED)
    if before and before.status == "True":
        return None
    return _Said("False", *_NOT_MIGRATED.get(phase, _NOT_STARTED))


_NOT_STARTED = (PlacementReason.NOT_STARTED, "nothing has been moved for it")
_NOT_MIGRATED = {
    Phase.SUPERSEDED: (PlacementReason.SUPERSEDED, "a later placement took its place before it was complete"),
}


def _verified(placement: ExpertPlacement, trial: Trial | None, phase: Phase) -> _Said | None:
    if trial:
        return _Said(trial.status, trial.reason, trial.message)
    before = placement.status.condition(PlacementConditionType.VERIFIED)
    if phase is not Phase.SUPERSEDED or before is None:
        return None
    if before.reason == PlacementReason.OBSERVING:
        return _Said("Unknown", PlacementReason.SUPERSEDED, "a later placement took its place before it was compared")
    if is_condemned(placement):
        message = f"{unpaused(before.message)}; a later placement took its place before it was taken back"
        return _Said("False", PlacementReason.SUPERSEDED, message)
    return None


def _active(placement: ExpertPlacement, scene: Scene, phase: Phase) -> _Said:
    if phase not in (Phase.VERIFYING, Phase.ACTIVE):
        return _Said("False", *_INACTIVE[phase])
    if _runs(placement, scene):
        return _Said("True", PlacementReason.IN_FORCE, "requests are routed by it")
    if not scene.revision:
        return _Said("False", PlacementReason.NOTHING_RUNS, "nothing runs; it comes back where it fits then")
    if placement.revision != scene.revision:
        return _Said("False", PlacementReason.SUPERSEDED, f"revision {scene.revision} runs")
    if scene.choice.standing is Standing.CONTRADICTED:
        return _Said("False", PlacementReason.REVISION_TAKEN, "another placement runs under its revision")
    return _Said("Unknown", PlacementReason.NOT_JUDGED, "what runs under its revision cannot be read now")


_INACTIVE: dict[Phase, tuple[PlacementReason, str]] = {
    Phase.PROPOSED: (PlacementReason.PENDING, "nobody has decided yet"),
    Phase.APPROVED: (PlacementReason.APPROVED, "it is migrated to as soon as condition Valid is True"),
    Phase.MIGRATING: (PlacementReason.MIGRATING, "copies are on their way; requests are answered meanwhile"),
    Phase.SUPERSEDED: (PlacementReason.SUPERSEDED, "a later placement took its place"),
    Phase.ROLLED_BACK: (PlacementReason.ROLLED_BACK, "it was taken back: condition Verified says why"),
    Phase.REJECTED: (PlacementReason.REJECTED, "spec.decision is Rejected"),
    Phase.FAILED: (PlacementReason.FAILED, "it cannot be migrated to: condition Valid says why"),
}
