"""Which Event a new status of an ExpertPlacement makes, and about what. Pure."""

from __future__ import annotations

from moe_operator.api import ExpertPlacement, ExpertPlacementStatus, Phase, PlacementConditionType, PlacementReason
from moe_operator.api.placement import Decision, Origin
from moe_operator.kube.events import EventNote, EventType
from moe_operator.placements.book import is_proposal

_CONDITION = {
    Phase.MIGRATING: PlacementConditionType.ACTIVE,
    Phase.ACTIVE: PlacementConditionType.ACTIVE,
    Phase.FAILED: PlacementConditionType.VALID,
    Phase.ROLLED_BACK: PlacementConditionType.VERIFIED,
}
"""Phases that are told of, and the condition that says why."""
_WARNINGS = (Phase.FAILED, Phase.ROLLED_BACK)


def event_of(placement: ExpertPlacement, after: ExpertPlacementStatus) -> EventNote | None:
    """The Event, for what a person wrote and for proposals that somebody approved. What the operator placed because it
    must is told by conditions of the MoEDeployment."""
    proposal = is_proposal(placement)
    if after.phase is placement.status.phase or after.phase not in _CONDITION:
        return None
    if (after.origin is not Origin.PERSON and not proposal) or _went_by(placement, after):
        return None
    kind = PlacementConditionType.VERIFIED if proposal and after.phase is Phase.ACTIVE else _CONDITION[after.phase]
    told = after.condition(kind)
    if told is None:
        return None
    reason = PlacementReason.ROLLED_BACK if after.phase is Phase.ROLLED_BACK else PlacementReason.named(told.reason)
    named = f"{placement.metadata.name}: " if concerns_deployment(placement, after) else ""
    weight: EventType = "Warning" if after.phase in _WARNINGS else "Normal"
    return EventNote(weight, reason, f"{named}{told.message}", action="Place")


def concerns_deployment(placement: ExpertPlacement, after: ExpertPlacementStatus) -> bool:
    """Whether the Event is one of the MoEDeployment: what the operator does to it by its own decision."""
    return is_proposal(placement) or after.phase is Phase.ROLLED_BACK


def _went_by(placement: ExpertPlacement, after: ExpertPlacementStatus) -> bool:
    """Whether it is a proposal that went without a decision: of those many come and go."""
    undecided = placement.spec.decision is Decision.PENDING
    return is_proposal(placement) and undecided and after.phase is Phase.FAILED
