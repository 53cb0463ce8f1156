"""Whether a placement that has arrived stays: what was counted before and since, and what that says of it. Pure.

What the operator places by itself because something must be placed (the first placement, other shards, missing copies,
the way back) is on no trial: nothing was promised of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from moe_contract.report import EpochFigures, Pace
from moe_operator.api import (
    Condition,
    ExpertPlacement,
    MoEDeployment,
    PlacementConditionType,
    PlacementReason,
    RebalanceMode,
    RollbackPolicy,
)
from moe_operator.api.names import ANNOTATION_PAUSE
from moe_operator.api.phase import Phase
from moe_operator.api.placement import Figures, Origin, TokenLatency
from moe_operator.api.status import TIME_FORMAT, ConditionStatus, time_told
from moe_operator.placements.book import phase_of
from moe_operator.rebalance.verification import (
    LEAST_ROWS,
    MODEL_ERROR,
    MOST_WINDOWS,
    SLOW_FOR,
    Outcome,
    Verdict,
    judge,
    why_kept,
)
from moe_operator.rebalance.words import duration
from moe_placement import InvalidStatisticsError
from moe_placement.verification import Observed
from moe_placement.verification import Pace as ObservedPace


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
        """The terms of a deployment; None where nothing is judged."""
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


def counted(epochs: Sequence[EpochFigures], revision: int) -> Figures | None:
    """What was counted of a revision: under its newest table with ``LEAST_ROWS``, else under the one that had most."""
    of_it = [each for each in epochs if each.revision == revision and each.rows]
    enough = [each for each in of_it if each.rows >= LEAST_ROWS]
    found = enough[-1] if enough else max(of_it, key=lambda each: each.rows, default=None)
    if found is None:
        return None
    return Figures(
        balance=f"{found.shard_balance:.4f}",
        fan_out=f"{found.fan_out:.4f}",
        # Where all shards are on one node, no placement is better or worse in this. A data plane of release 0.1.0 does
        # not tell on how many they are.
        node_fan_out=f"{0.0 if found.nodes == 1 else found.node_fan_out:.4f}" if found.nodes else None,
        beside_attention=True if found.nodes else None,
        rows=found.rows,
        rows_per_second=f"{found.rows_per_second:.4g}" if found.rows_per_second else None,
        latency=tuple(_latency(pace) for pace in found.paces) or None,
        context=f"{found.context:.4g}" if found.context else None,
    )


def _latency(pace: Pace) -> TokenLatency:
    lower, median, upper = (round(1e6 * seconds) for seconds in (pace.lower, pace.median, pace.upper))
    return TokenLatency(
        rows=pace.rows, tokens=pace.tokens,
        lower_microseconds=lower, median_microseconds=median, upper_microseconds=upper,
    )  # fmt: skip


def is_on_trial(placement: ExpertPlacement) -> bool:
    """Whether something was promised of the placement, or somebody wanted it."""
    return placement.status.origin is not Origin.OPERATOR or placement.status.predicted is not None


def is_condemned(placement: ExpertPlacement) -> bool:
    """Whether the placement was told that it is to be rolled back."""
    told = placement.status.condition(PlacementConditionType.VERIFIED)
    condemned = told is not None and told.status == "False" and told.reason in _CONDEMNED
    return phase_of(placement) is Phase.VERIFYING and condemned


def goes_back(placement: ExpertPlacement, terms: Terms | None) -> bool:
    """Whether the placement is rolled back now: it is condemned, and nobody has asked since for it to stay, or for a
    pause."""
    return is_condemned(placement) and terms is not None and not terms.paused and _why_kept(placement, terms) is None


def trial_of(
    placement: ExpertPlacement, terms: Terms | None, after: Figures | None, now: str, no_way_back: str | None
) -> Trial:
    """The trial of a placement that has arrived.

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
        return _condemned(placement, told, terms, no_way_back)
    if terms is None:
        return MODE_OFF
    today = datetime.strptime(now, TIME_FORMAT).replace(tzinfo=UTC)
    since = _arrived(placement) or today
    # Later than a window from now it cannot have been: a clock was wrong, or is, and nobody waits for that time.
    has_arrived = since <= today + terms.window
    waited = (today - since) // terms.window if has_arrived else MOST_WINDOWS
    if waited < 1:
        until = (since + terms.window).strftime(TIME_FORMAT)
        message = f"what requests meet is counted, and compared with what they met before from {until} on"
        return Trial(None, "Unknown", PlacementReason.OBSERVING, message)
    for_long = not has_arrived or today - since >= SLOW_FOR
    judged = _compared(placement, after, waited, terms.rollback, for_long)
    if judged.verdict is Verdict.ROLL_BACK and terms.paused:
        return Trial(None, "Unknown", PlacementReason.OBSERVING, judged.message + _PAUSED)
    stays, status, reason = _TOLD[judged.verdict]
    if stays is False and judged.slower:
        reason = PlacementReason.TOKENS_SLOWER
    if stays is None:
        # Without figures, which are others at every look: each word of it is a write of the whole object.
        over = f"{min(waited, MOST_WINDOWS)} of {MOST_WINDOWS} windows are over"
        return Trial(None, status, reason, f"{over}, and {_SLOWER if judged.slower else _UNDECIDED}")
    return Trial(stays, status, reason, judged.message, after)


def _condemned(placement: ExpertPlacement, told: Condition, terms: Terms | None, no_way_back: str | None) -> Trial:
    """What was decided stands, but for what somebody has written since."""
    said = unpaused(told.message)
    why = no_way_back or _why_kept(placement, terms)
    if why:
        return Trial(True, "False", PlacementReason.KEPT_THOUGH_WORSE, f"{said}; it stays, since {why}")
    paused = terms is not None and terms.paused
    return Trial(False, "False", PlacementReason.named(told.reason), said + _PAUSED if paused else said)


def _why_kept(placement: ExpertPlacement, terms: Terms | None) -> str | None:
    return why_kept(_is_wanted(placement), terms.rollback) if terms else "spec.rebalance.mode is Off"


def _is_wanted(placement: ExpertPlacement) -> bool:
    """Whether a person wrote or approved the placement."""
    return Origin.PERSON in (placement.status.origin, placement.status.approved_by)


def _compared(
    placement: ExpertPlacement, after: Figures | None, waited: int, rollback: RollbackPolicy, for_long: bool
) -> Outcome:
    """The verdict. Where either side does not tell nodes beside the one where attention runs, it is by visits of shards
    and by balance alone."""
    told, by_person = placement.status, _is_wanted(placement)
    before, since = _observed(told.before), _observed(after)
    nodes = all(figures is None or _tells_nodes(figures) for figures in (told.before, after))
    if not nodes:
        before, since = (side and replace(side, node_fan_out=0.0) for side in (before, since))
    if told.predicted is None:
        return judge(before, since, waited, by_person, rollback, for_long=for_long)
    if nodes:
        return judge(before, since, waited, by_person, rollback, MODEL_ERROR, for_long=for_long)
    # Of nodes nothing can be compared: where no gain was foretold of shards, none is missed there.
    foretold = _observed(told.predicted)
    promised = replace(foretold, tokens=before.tokens, node_fan_out=0.0) if before and foretold else None
    return judge(before, since, waited, by_person, rollback, MODEL_ERROR, promised, for_long)


def _tells_nodes(figures: Figures) -> bool:
    return figures.node_fan_out is not None and figures.beside_attention is True


def unpaused(message: str) -> str:
    """The status of a placement that was to be taken back, without the note that nothing was at that time."""
    return message.removesuffix(_PAUSED)


_PAUSED = f"; it is not taken back while the annotation {ANNOTATION_PAUSE} is set"

_UNDECIDED = "what was counted so far does not decide"
_SLOWER = f"tokens take longer than before: that decides {duration(SLOW_FOR.total_seconds())} after the last copy came"

_CONDEMNED = frozenset({PlacementReason.GAIN_MISSING, PlacementReason.TOKENS_SLOWER})

_TOLD: dict[Verdict, tuple[bool | None, ConditionStatus, PlacementReason]] = {
    Verdict.WAIT: (None, "Unknown", PlacementReason.OBSERVING),
    Verdict.KEEP: (True, "True", PlacementReason.VERIFIED),
    Verdict.NOT_VERIFIED: (True, "Unknown", PlacementReason.NOT_VERIFIED),
    Verdict.ROLL_BACK: (False, "False", PlacementReason.GAIN_MISSING),
    Verdict.HARMFUL_BUT_KEPT: (True, "False", PlacementReason.KEPT_THOUGH_WORSE),
}


def _observed(figures: Figures | None) -> Observed | None:
    """What was counted, as the verification takes it; None also where it is no figure: whoever may write a status wrote
    it."""
    if figures is None:
        return None
    try:
        return Observed(
            tokens=figures.rows or 0,
            fan_out=float(figures.fan_out),
            node_fan_out=float(figures.node_fan_out or 0),
            balance=float(figures.balance),
            paces=tuple(_pace(each) for each in figures.latency or ()),
            rate=float(figures.rows_per_second or 0),
            context=float(figures.context or 0),
        )
    except (ValueError, InvalidStatisticsError):
        return None


def _pace(told: TokenLatency) -> ObservedPace:
    quartiles = (told.lower_microseconds, told.median_microseconds, told.upper_microseconds)
    return ObservedPace(told.rows, told.tokens, *(each / 1e6 for each in quartiles))


def _arrived(placement: ExpertPlacement) -> datetime | None:
    """When the last copy of a placement came into place; None where that is not told, since it has just arrived."""
    migrated = placement.status.condition(PlacementConditionType.MIGRATED)
    return time_told(migrated.last_transition_time) if migrated and migrated.status == "True" else None
