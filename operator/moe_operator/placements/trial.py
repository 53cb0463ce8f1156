"""Whether a placement that has arrived stays: what was counted before and since, and what that says of it. Pure.

What the operator places by itself because something must be placed (the first placement, other shards, missing copies,
the way back) is on no trial: nothing was promised of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from moe_contract.report import EpochFigures
from moe_operator.api import (
    ExpertPlacement,
    MoEDeployment,
    PlacementConditionType,
    PlacementReason,
    RebalanceMode,
    RollbackPolicy,
)
from moe_operator.api.names import ANNOTATION_PAUSE
from moe_operator.api.phase import Phase
from moe_operator.api.placement import Figures, Origin
from moe_operator.api.status import TIME_FORMAT, ConditionStatus
from moe_operator.placements.book import phase_of
from moe_operator.rebalance.verification import MODEL_ERROR, MOST_WINDOWS, Outcome, Verdict, judge, why_kept
from moe_placement import InvalidStatisticsError
from moe_placement.verification import Observed


@dataclass(frozen=True, slots=True)
class Terms:
    """By what placements are judged.

    Attributes:
        window: for how long one is observed before it is compared.
        paused: whether nothing is to be taken back now.
    """

    window: timedelta
    rollback: RollbackPolicy
    paused: bool = False

    @classmethod
    def of(cls, moe: MoEDeployment) -> Terms | None:
        """Those of a deployment; None where nothing is judged."""
        wanted = moe.spec.rebalance
        if wanted.mode is RebalanceMode.OFF:
            return None
        return cls(wanted.every, wanted.rollback, moe.rebalance_paused)


@dataclass(frozen=True, slots=True)
class Trial:
    """What condition ``Verified`` tells.

    Attributes:
        stays: None while nothing is decided; False of one that is to be rolled back.
        measured: what was counted of it, where that was compared.
    """

    stays: bool | None
    status: ConditionStatus
    reason: PlacementReason
    message: str
    measured: Figures | None = None


NOTHING_PROMISED = Trial(
    True, "Unknown", PlacementReason.NOT_VERIFIED, "nothing was promised of it: what requests meet is not compared"
)
MODE_OFF = Trial(
    True,
    "Unknown",
    PlacementReason.NOT_VERIFIED,
    "spec.rebalance.mode of the MoEDeployment is Off: what requests meet is not compared",
)


def counted(epochs: Sequence[EpochFigures], revision: int, least_rows: int = 1000) -> Figures | None:
    """What was counted of a revision: under its newest table with ``least_rows``, else under the one that had most."""
    of_it = [each for each in epochs if each.revision == revision and each.rows]
    enough = [each for each in of_it if each.rows >= least_rows]
    found = enough[-1] if enough else max(of_it, key=lambda each: each.rows, default=None)
    if found is None:
        return None
    return Figures(
        balance=f"{found.shard_balance:.4f}",
        fan_out=f"{found.fan_out:.4f}",
        node_fan_out=f"{found.node_fan_out:.4f}",
        rows=found.rows,
    )


def is_on_trial(placement: ExpertPlacement) -> bool:
    """Whether something was promised of it, or somebody wanted it."""
    return placement.status.origin is not Origin.OPERATOR or placement.status.predicted is not None


def is_condemned(placement: ExpertPlacement) -> bool:
    """Whether it was told that it is to be rolled back."""
    told = placement.status.condition(PlacementConditionType.VERIFIED)
    condemned = told is not None and told.status == "False" and told.reason == PlacementReason.GAIN_MISSING
    return phase_of(placement) is Phase.VERIFYING and condemned


def goes_back(placement: ExpertPlacement, terms: Terms | None) -> bool:
    """Whether it is rolled back now: it is condemned, and nobody has asked since for it to stay, or for a pause."""
    return is_condemned(placement) and terms is not None and not terms.paused and _why_kept(placement, terms) is None


def trial_of(
    placement: ExpertPlacement, terms: Terms | None, after: Figures | None, now: str, no_way_back: str | None
) -> Trial:
    """Of one that has arrived.

    Args:
        terms: None where nothing is judged.
        after: what was counted of it so far.
        now: UTC, as conditions have it.
        no_way_back: why it cannot be rolled back, where that is known.
    """
    if not is_on_trial(placement):
        return NOTHING_PROMISED
    told = placement.status.condition(PlacementConditionType.VERIFIED)
    if told and is_condemned(placement):
        return _condemned(placement, told.message, terms, no_way_back)
    if terms is None:
        return MODE_OFF
    today = datetime.strptime(now, TIME_FORMAT)
    since = _arrived(placement, today)
    # Later than a window from now it cannot have been: a clock was wrong, or is, and nobody waits for that time.
    waited = (today - since) // terms.window if since <= today + terms.window else MOST_WINDOWS
    if waited < 1:
        until = (since + terms.window).strftime(TIME_FORMAT)
        message = f"what requests meet is counted, and compared with what they met before from {until} on"
        return Trial(None, "Unknown", PlacementReason.OBSERVING, message)
    judged = _compared(placement, after, waited, terms.rollback)
    if judged.verdict is Verdict.ROLL_BACK and terms.paused:
        return Trial(None, "Unknown", PlacementReason.OBSERVING, judged.message + _PAUSED)
    stays, status, reason = _TOLD[judged.verdict]
    if stays is None:
        # Without figures, which are others at every look: each word of it is a write of the whole object.
        message = f"{waited} of {MOST_WINDOWS} windows are over, and what was counted so far does not decide"
        return Trial(None, status, reason, message)
    return Trial(stays, status, reason, judged.message, after)


def _condemned(placement: ExpertPlacement, said: str, terms: Terms | None, no_way_back: str | None) -> Trial:
    """What was decided stands, but for what somebody has written since."""
    said = said.removesuffix(_PAUSED)
    why = no_way_back or _why_kept(placement, terms)
    if why:
        return Trial(True, "False", PlacementReason.KEPT_THOUGH_WORSE, f"{said}; it stays, since {why}")
    paused = terms is not None and terms.paused
    return Trial(False, "False", PlacementReason.GAIN_MISSING, said + _PAUSED if paused else said)


def _why_kept(placement: ExpertPlacement, terms: Terms | None) -> str | None:
    return why_kept(_is_wanted(placement), terms.rollback) if terms else "spec.rebalance.mode is Off"


def _is_wanted(placement: ExpertPlacement) -> bool:
    """Whether a person wrote or approved it."""
    return Origin.PERSON in (placement.status.origin, placement.status.approved_by)


def _compared(placement: ExpertPlacement, after: Figures | None, waited: int, rollback: RollbackPolicy) -> Outcome:
    """Where ``before`` was reckoned, by visits of shards and by balance alone: the model counts all nodes that a row
    visits, the data plane those beside the one that attention runs on, which the model does not know."""
    told, by_person = placement.status, _is_wanted(placement)
    before, since = _observed(told.before), _observed(after)
    if told.predicted is None:
        return judge(before, since, waited, by_person, rollback)
    foretold = _observed(told.predicted)
    if before and foretold and foretold.node_fan_out < before.node_fan_out:
        promised = replace(foretold, tokens=before.tokens, node_fan_out=0.0)
    else:
        promised = None
    before, since = (each and replace(each, node_fan_out=0.0) for each in (before, since))
    return judge(before, since, waited, by_person, rollback, MODEL_ERROR, promised)


_PAUSED = f"; it is not taken back while the annotation {ANNOTATION_PAUSE} is set"

_TOLD: dict[Verdict, tuple[bool | None, ConditionStatus, PlacementReason]] = {
    Verdict.WAIT: (None, "Unknown", PlacementReason.OBSERVING),
    Verdict.KEEP: (True, "True", PlacementReason.VERIFIED),
    Verdict.NOT_VERIFIED: (True, "Unknown", PlacementReason.NOT_VERIFIED),
    Verdict.ROLL_BACK: (False, "False", PlacementReason.GAIN_MISSING),
    Verdict.HARMFUL_BUT_KEPT: (True, "False", PlacementReason.KEPT_THOUGH_WORSE),
}


def _observed(figures: Figures | None) -> Observed | None:
    """None also of what is no figure: whoever may write a status wrote it."""
    if figures is None:
        return None
    try:
        return Observed(
            tokens=figures.rows or 0,
            fan_out=float(figures.fan_out),
            node_fan_out=float(figures.node_fan_out),
            balance=float(figures.balance),
        )
    except (ValueError, InvalidStatisticsError):
        return None


def _arrived(placement: ExpertPlacement, now: datetime) -> datetime:
    """When its last copy came into place; ``now`` of one that has just arrived."""
    migrated = placement.status.condition(PlacementConditionType.MIGRATED)
    if migrated is None or migrated.status != "True":
        return now
    try:
        return datetime.strptime(migrated.last_transition_time, TIME_FORMAT)
    except ValueError:  # somebody else wrote it
        return now
