"""Whether a placement stays, by what was counted before it and since. Pure.

Counted figures decide. That the traffic is of the same kind before and since is assumed, of enough tokens. How long a
token takes, in steps of as many rows, never speaks for a placement. Where it has clearly risen, and has not come down
again after all windows and ``SLOW_FOR``, it speaks against one, whatever else was gained; not before, since other work
on a machine makes tokens slow for a while. What a person wrote or approved is told to be worse, and stays, unless
``spec.rebalance.rollback`` says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto
from math import sqrt

from moe_operator.api import RollbackPolicy
from moe_placement.verification import LEAST_NODES, Observed, verify

LEAST_ROWS = 1000
"""Tokens that figures need on either side to be compared."""
MOST_WINDOWS = 3
"""After so many windows of an interval each it is decided by what there is."""
SLOW_FOR = timedelta(minutes=5)
"""For so long after the last copy came tokens must have been slower to speak against a placement: other work on a
machine, or another kind of request, makes them so for a while, and windows may be as short as 10 s."""
_LEAST_NOISE = 0.005
MODEL_ERROR = 0.02
"""Figures that the brain computes from sampled sets of experts may differ by this part from those that are counted."""


class Verdict(Enum):
    """What becomes of a placement."""

    KEEP = auto()
    ROLL_BACK = auto()
    WAIT = auto()
    NOT_VERIFIED = auto()
    """It stays: there was too little traffic to compare."""
    HARMFUL_BUT_KEPT = auto()
    """It should be rolled back, which is not wanted: a person's wish, or ``rollback: Never``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Attributes: ``message`` with the figures that it was judged by; ``slower``: nothing but latency speaks against
    it, so far or in the end."""

    verdict: Verdict
    message: str
    slower: bool = False


def judge(
    before: Observed | None,
    after: Observed | None,
    windows_waited: int,
    written_by_person: bool,
    rollback: RollbackPolicy,
    error: float = 0.0,
    promised: Observed | None = None,
    for_long: bool = True,
) -> Outcome:
    """Compare what was counted.

    A gain or loss that stands out of chance decides at once; a gain not before latency can be compared, where that was
    measured before. What does not stand out is given more time, and is a gain in the end if it is above 0: going back
    costs as much as coming did, so less than that is no reason to stay.

    Args:
        before: of the placement before, with the traffic of the same kind; None where it is not known.
        after: counted since, of this one.
        windows_waited: whole windows since every copy is in place.
        written_by_person: or approved by one.
        rollback: what is to be rolled back.
        error: part by which ``before`` may be wrong, chance aside: ``MODEL_ERROR`` where it was not counted.
        promised: where what was promised does not show in the figures compared, what was promised of these. One that
            keeps its promise is then not taken back for want of a gain.
        for_long: whether every copy has been in place for ``SLOW_FOR``.
    """
    rows = (before.tokens if before else 0, after.tokens if after else 0)
    last = windows_waited >= MOST_WINDOWS
    counted = f"{rows[0]:.0f} tokens were counted before and {rows[1]:.0f} since"
    if before is None or after is None or min(rows) < LEAST_ROWS:
        message = f"{counted}, {LEAST_ROWS} of either are needed"
        if last:
            return Outcome(Verdict.NOT_VERIFIED, f"{message}: it stays without a comparison")
        return Outcome(Verdict.WAIT, message)
    chance, of_nodes = noise(before, after) + error, node_noise(before, after) + error
    found = verify(before, after, least_tokens=LEAST_ROWS, tolerance=chance, node_tolerance=of_nodes)
    chance = of_nodes if found.by_nodes else chance
    message = f"{'; '.join(found.reasons)}; {counted}"
    unseen = promised is not None and _promised_elsewhere(before, after, promised, chance)
    if found.score <= -chance and not unseen:
        return _worse(message, written_by_person, rollback)
    if found.slower:
        if last and for_long:
            return _worse(message, written_by_person, rollback, slower=True)
        return Outcome(Verdict.WAIT, message, slower=True)
    to_come = bool(before.paces) and found.latency is None
    if (found.score > chance and not to_come) or (last and found.score > 0):
        return Outcome(Verdict.KEEP, message)
    if not last:
        return Outcome(Verdict.WAIT, f"{message}: by chance they may differ by {chance:.1%}")
    if unseen:
        message = f"{message}: that is what was foretold of them, and the gain was foretold of other figures: it stays"
        return Outcome(Verdict.NOT_VERIFIED, message)
    return _worse(f"{message}: no gain was measured", written_by_person, rollback)


def noise(before: Observed, after: Observed) -> float:
    """By what part the score of two windows of the same traffic may differ from 0.

    Two standard deviations of a mean over rows each of which visits a number of shards, and loads a shard, that itself
    deviates by about its mean.
    """
    return max(_LEAST_NOISE, 2 / sqrt(min(before.tokens, after.tokens)))


def node_noise(before: Observed, after: Observed) -> float:
    """The same where node fan-out is compared.

    Few rows visit another node: their number deviates by its root, and so the difference of the two by the root of
    their sum, which is more of a small figure than of a large one.
    """
    sum_of_variances = before.node_fan_out / before.tokens + after.node_fan_out / after.tokens
    return max(noise(before, after), 2 * sqrt(sum_of_variances) / max(before.node_fan_out, LEAST_NODES))


def why_kept(written_by_person: bool, rollback: RollbackPolicy) -> str | None:
    """Why a placement that is worse stays all the same; None where it is to be rolled back."""
    if rollback is RollbackPolicy.NEVER:
        return "spec.rebalance.rollback is Never"
    if written_by_person and rollback is not RollbackPolicy.ALWAYS:
        return "a person wanted it (spec.rebalance.rollback: Always would take it back)"
    return None


def _worse(message: str, written_by_person: bool, rollback: RollbackPolicy, slower: bool = False) -> Outcome:
    why = why_kept(written_by_person, rollback)
    if why:
        return Outcome(Verdict.HARMFUL_BUT_KEPT, f"{message}; it stays, since {why}", slower)
    return Outcome(Verdict.ROLL_BACK, message, slower)


def _promised_elsewhere(before: Observed, after: Observed, promised: Observed, chance: float) -> bool:
    """Whether no gain was promised of the figures compared, and what was counted is no worse than promised."""
    if promised.tokens < LEAST_ROWS or verify(before, promised, least_tokens=LEAST_ROWS).score > chance:
        return False
    return verify(promised, after, least_tokens=LEAST_ROWS, tolerance=chance).keep
