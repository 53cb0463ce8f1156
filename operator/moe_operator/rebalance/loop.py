"""From a look at the traffic to what is proposed, decided and told of it. Pure.

    look ─► proposal ─► approval ─► migration ─► observation ─► it stays, or the one before comes back
            (Pending)   (a person, or with mode Auto the operator)

Where each of these stands is told by objects and the data plane, never by what a process remembers: ``placements``
tells migration, observation and the way back, this module the two ends of that. ``looks`` looks, ``reconcile`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from moe_operator.api import (
    ExpertPlacement,
    MoEDeployment,
    RebalanceMode,
    RebalanceReason,
    RebalanceResult,
)
from moe_operator.api.names import placement_name
from moe_operator.api.placement import Figures, Price
from moe_operator.api.status import TIME_FORMAT, LastDecision, RebalanceStatus
from moe_operator.placements.book import Book
from moe_operator.rebalance.proposal import Predicted, Proposal

HARDLY_ANOTHER = 0.02
"""A figure that is foretold moves with every look; by less than this a proposal on which somebody may be about to
decide is not replaced."""
_NOTHING_SAID = frozenset(
    {
        RebalanceReason.STATISTICS_DAMAGED,
        RebalanceReason.NOT_PLANNABLE,
        RebalanceReason.STATISTICS_MISSING,
        RebalanceReason.PLANNING_TOO_HEAVY,
        RebalanceReason.PLANNING_DELAYED,
    }
)


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the traffic.

    Attributes:
        at: when it began, UTC.
        base: revision that ran then.
        proposal: what came of it.
    """

    at: datetime
    base: int
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class Conclusion:
    """``proposed``: what is to be written; None where nothing is."""

    decision: LastDecision
    proposed: Proposal | None = None


def conclude(look: Look, moe: MoEDeployment, book: Book) -> Conclusion:
    """What a look means beside the proposals that are there."""
    found = look.proposal
    if not found.accepted or found.content is None or found.after is None:
        failed = found.reason in _NOTHING_SAID
        return Conclusion(
            _decision(look, RebalanceResult.FAILED if failed else RebalanceResult.REJECTED, found.message)
        )
    stands = _open(book, look.base)
    if stands and _hardly_another(stands, found):
        message = f"{stands.metadata.name}, proposed before, stands: {found.message}"
        return Conclusion(_decision(look, RebalanceResult.ACCEPTED, message))
    name = placement_name(moe.metadata.name, found.content.revision)
    return Conclusion(_decision(look, RebalanceResult.ACCEPTED, f"{name}: {found.message}"), found)


def to_approve(moe: MoEDeployment, told: RebalanceStatus | None, book: Book, base: int) -> ExpertPlacement | None:
    """The proposal that the operator decides for: with mode Auto the one that the last look was for."""
    decision = told.last_decision if told else None
    accepted = decision is not None and decision.result == RebalanceResult.ACCEPTED
    auto = moe.spec.rebalance.mode is RebalanceMode.AUTO
    return _open(book, base) if auto and accepted and not moe.rebalance_paused else None


def figures(predicted: Predicted, rows: float | None = None) -> Figures:
    """As a status tells them; ``rows``: tokens that they are to be compared by."""
    return Figures(
        balance=f"{predicted.balance:.4f}",
        fan_out=f"{predicted.fan_out:.4f}",
        node_fan_out=f"{predicted.node_fan_out:.4f}",
        rows=None if rows is None else round(rows),
    )


def price(proposal: Proposal) -> Price | None:
    """As a status tells it."""
    asked = proposal.price
    return Price(moves=asked.moves, bytes=asked.bytes, seconds=f"{asked.seconds:.3g}") if asked else None


def _open(book: Book, base: int) -> ExpertPlacement | None:
    """The last of the operator's proposals from what runs on which nobody has decided."""
    found = book.proposed[-1] if book.proposed else None
    return found if found and found.spec.content.base_revision == base else None


def _hardly_another(stands: ExpertPlacement, found: Proposal) -> bool:
    told, new = stands.status.predicted, found.after
    if told is None or new is None:
        return False
    pairs = ((told.balance, new.balance), (told.fan_out, new.fan_out), (told.node_fan_out, new.node_fan_out))
    try:
        return all(abs(float(before) - now) < HARDLY_ANOTHER for before, now in pairs)
    except ValueError:  # somebody else wrote it
        return False


def _decision(look: Look, result: RebalanceResult, message: str) -> LastDecision:
    return LastDecision(time=look.at.strftime(TIME_FORMAT), result=result, reason=look.proposal.reason, message=message)
