"""From a look at the traffic to what is proposed, decided and told of it. Pure.

    look ─► proposal ─► approval ─► migration ─► observation ─► it stays, or the one before comes back
            (Pending)   (a person, or with mode Auto the operator)

Where each of these stands is told by objects and the data plane, never by what a process remembers: ``placements``
tells migration, observation and the way back, this module the two ends of that. ``looks`` looks, ``reconcile`` writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from moe_operator.api import (
    ExpertPlacement,
    MoEDeployment,
    RebalanceMode,
    RebalanceReason,
    RebalanceResult,
)
from moe_operator.api.names import placement_name
from moe_operator.api.placement import MAX_STEP, Figures, Price
from moe_operator.api.reasons import PlacementConditionType
from moe_operator.api.status import MAX_MESSAGE, TIME_FORMAT, LastDecision, RebalanceStatus, time_told
from moe_operator.placements.book import Book
from moe_operator.rebalance.proposal import Predicted, Proposal
from moe_operator.rebalance.schedule import Past, evaluation

HARDLY_ANOTHER = 0.02
"""What is foretold moves with every look. A proposal on which somebody may be about to decide is not replaced by one of
which a figure differs by less than this."""
MEETS_ANOTHER = 0.05
"""Where a figure of what runs has moved by this much or more since a proposal was made, it is another traffic: the same
figures are another gain then. Of the newest traffic alone figures move further by chance."""
CHEAPER = 0.2
"""Another proposal that foretells the same takes the place of one where it has this part fewer copies to load, or still
fewer."""
STANDS = timedelta(hours=1)
"""For so long a proposal is not replaced by one that foretells the same. What it brings is told, and later judged, by
the traffic that it was made for. (Contents cannot be compared: plans of the same traffic share few copies.)"""
FRESH = timedelta(minutes=10)
"""For so long a look counts at least, where two intervals are shorter: reading and planning take minutes."""
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
    """Attributes:
    proposed: what is to be written; None where nothing is.
    instead: proposals on which nobody has decided, and which leave first: those of higher revisions would stand.
    """

    decision: LastDecision
    proposed: Proposal | None = None
    instead: tuple[ExpertPlacement, ...] = ()


def conclude(look: Look, moe: MoEDeployment, book: Book) -> Conclusion:
    """What follows from a look, beside the proposals that there are."""
    found = look.proposal
    if not found.accepted or found.content is None or found.after is None:
        failed = found.reason in _NOTHING_SAID
        return Conclusion(
            _decision(look, RebalanceResult.FAILED if failed else RebalanceResult.REJECTED, found.message)
        )
    stands = _open(book, look.base)
    if stands and _is_recent(stands, look.at) and _hardly_another(stands, found):
        message = f"{stands.metadata.name}, proposed before, stands beside what is hardly another now: {found.message}"
        return Conclusion(_decision(look, RebalanceResult.ACCEPTED, message, stands.revision))
    revision = found.content.revision
    instead: tuple[ExpertPlacement, ...] = ()
    if revision > look.base + MAX_STEP:
        # Of those before most are over and gone: their revisions are free again.
        revision, instead = book.first_free(look.base), book.proposed
        content = found.content.model_copy(update={"revision": revision})
        found = replace(found, content=content)
    name = placement_name(moe.metadata.name, revision)
    if revision > look.base + MAX_STEP:
        message = (
            f"{found.message}; but there are ExpertPlacements of all {MAX_STEP} revisions above {look.base}, which "
            "runs, and a higher one cannot be written: delete some"
        )
        return Conclusion(_decision(look, RebalanceResult.FAILED, message))
    return Conclusion(_decision(look, RebalanceResult.ACCEPTED, f"{name}: {found.message}", revision), found, instead)


def to_approve(
    moe: MoEDeployment, told: RebalanceStatus, book: Book, base: int, now: datetime
) -> ExpertPlacement | None:
    """The proposal that the operator approves, with mode Auto: the one that the last look was for, while that look is
    not long ago, and only at a time at which proposals would be made."""
    rebalance, decision = moe.spec.rebalance, told.last_decision
    if rebalance.mode is not RebalanceMode.AUTO or decision is None or decision.result != RebalanceResult.ACCEPTED:
        return None
    # But for the interval, which the look itself began.
    past = replace(Past.of(moe, book.placements), looked=None)
    if not evaluation(moe, past, now).due or not _is_fresh(decision, max(2 * rebalance.every, FRESH), now):
        return None
    found = _open(book, base)
    return found if found and found.revision == decision.revision else None


def figures(predicted: Predicted, rows: float | None = None) -> Figures:
    """The figures as a status tells them. ``rows``: the tokens by which they are to be compared."""
    return Figures(
        balance=f"{predicted.balance:.4f}",
        fan_out=f"{predicted.fan_out:.4f}",
        node_fan_out=None if predicted.node_fan_out is None else f"{predicted.node_fan_out:.4f}",
        beside_attention=None if predicted.node_fan_out is None else True,
        rows=None if rows is None else round(rows),
    )


def price(proposal: Proposal) -> Price | None:
    """The price as a status tells it."""
    asked = proposal.price
    return Price(moves=asked.moves, bytes=asked.bytes, seconds=f"{asked.seconds:.3g}") if asked else None


def _open(book: Book, base: int) -> ExpertPlacement | None:
    """The last proposal of the operator's that starts from what runs, and on which nobody has decided."""
    found = book.proposed[-1] if book.proposed else None
    return found if found and found.spec.content.base_revision == base else None


def _is_recent(stands: ExpertPlacement, at: datetime) -> bool:
    """Whether the proposal was made within ``STANDS``."""
    pending = stands.status.condition(PlacementConditionType.APPROVED)
    if pending is None:  # nothing is told of it yet
        return True
    since = time_told(pending.last_transition_time)
    return since is not None and abs(at - since) <= STANDS


def _hardly_another(stands: ExpertPlacement, found: Proposal) -> bool:
    """Whether a proposal brings as much as the one that stands, meets the same traffic, and is hardly cheaper."""
    told, costs = stands.status, stands.status.price
    if told.predicted is None or found.after is None:
        return False
    cheaper = costs is not None and found.price is not None and found.price.moves < (1 - CHEAPER) * costs.moves
    brings = _alike(told.predicted, found.after, HARDLY_ANOTHER)
    meets = told.before is None or found.met is None or _alike(told.before, found.met, MEETS_ANOTHER)
    return brings and meets and not cheaper


def _alike(told: Figures, now: Predicted, within: float) -> bool:
    if (told.node_fan_out is None) is not (now.node_fan_out is None):
        return False
    compared = ((told.balance, now.balance), (told.fan_out, now.fan_out), (told.node_fan_out, now.node_fan_out))
    try:
        return all(abs(float(before or 0) - (since or 0)) < within for before, since in compared)
    except ValueError:  # somebody else wrote it
        return False


def _is_fresh(decision: LastDecision, lasts: timedelta, now: datetime) -> bool:
    time = time_told(decision.time)
    return time is not None and abs(now - time) <= lasts


def _decision(look: Look, result: RebalanceResult, message: str, revision: int | None = None) -> LastDecision:
    return LastDecision(
        time=look.at.strftime(TIME_FORMAT),
        result=result,
        reason=look.proposal.reason,
        message=message[:MAX_MESSAGE],
        revision=revision,
    )
