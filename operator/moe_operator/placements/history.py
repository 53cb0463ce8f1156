"""Which ExpertPlacements of a deployment may go. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from moe_operator.api import ExpertPlacement, Phase
from moe_operator.api.placement import Origin
from moe_operator.rebalance.schedule import MOST_DOUBLINGS, taken_back

_MAY_GO = frozenset({Phase.SUPERSEDED, Phase.ROLLED_BACK, Phase.REJECTED, Phase.FAILED})


def to_prune(placements: Iterable[ExpertPlacement], running: int, limit: int) -> tuple[ExpertPlacement, ...]:
    """The oldest beyond ``limit`` of those that the operator wrote and that are at their end.

    Never: what runs (revision ``running``); what to go back to, the last that was superseded; those taken back one
    after the other, by which the cooldown is reckoned; and what a person wrote. Who wrote it is what the status says,
    which nobody but the operator writes.
    """
    newest_first = sorted(placements, key=_revision, reverse=True)
    ended = [each for each in reversed(newest_first) if each.status.phase in _MAY_GO]
    superseded = [each.revision for each in ended if each.status.phase is Phase.SUPERSEDED]
    counted = taken_back(newest_first)[:MOST_DOUBLINGS]
    kept = {running, *superseded[-1:], *(each.revision for each in counted)}
    prunable = [each for each in ended if each.status.origin is Origin.OPERATOR and each.revision not in kept]
    return tuple(prunable[: max(0, len(prunable) - limit)])


def _revision(placement: ExpertPlacement) -> int:
    return placement.revision
