"""How many shards a usage asks for. Pure.

Work that is divided among ``n`` shards is divided among ``m`` as well: the busiest one's utilisation becomes
``u n / m``. Of the time between two tokens shards take the part ``u``; all else (attention, links, the api) stays as it
is, as Amdahl's law has it: ``itl (1 - u + u n / m)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from moe_operator.api.reasons import AutoscaleReason
from moe_operator.autoscale.usage import Usage

KEEPS_BELOW = 0.85
"""Shards leave only where what stays is expected to be below this part of the target. What was removed so is wanted
back only when the load has grown by a sixth, so that noise of less moves nothing."""
MOST_AT_ONCE = 2
"""At most so many times as many shards as there are come in one step: the next figures say whether that was enough."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Targets:
    """``utilization``: 0 to 1, of the busiest shard. ``itl``: seconds; None for no bound."""

    utilization: float
    itl: float | None = None


@dataclass(frozen=True, slots=True)
class Need:
    """``shards``: how many are wanted. ``reason``: by which figure; None where that is as many as there are."""

    shards: int
    reason: AutoscaleReason | None = None


def need(used: Usage, targets: Targets) -> Need:
    """How many shards are wanted."""
    by_load = _for_load(used, targets.utilization) if used.busiest > targets.utilization else 0
    by_itl = _for_itl(used, targets.itl) if _is_late(used, targets) else 0
    more = min(max(by_load, by_itl or 0), MOST_AT_ONCE * used.shards)
    if more > used.shards:
        late = by_load <= used.shards
        return Need(more, AutoscaleReason.ITL_ABOVE_TARGET if late else AutoscaleReason.UTILIZATION_ABOVE_TARGET)
    fewer = max(1, _for_load(used, KEEPS_BELOW * targets.utilization))
    if targets.itl is not None and used.itl is not None:
        for_itl = _for_itl(used, KEEPS_BELOW * targets.itl)
        fewer = used.shards if for_itl is None else max(fewer, for_itl)
    if fewer < used.shards:
        return Need(fewer, AutoscaleReason.BELOW_TARGET)
    return Need(used.shards)


def out_of_reach(used: Usage, targets: Targets) -> bool:
    """Whether tokens take too long, and no number of shards would change that."""
    return targets.itl is not None and _is_late(used, targets) and _for_itl(used, targets.itl) is None


def _is_late(used: Usage, targets: Targets) -> bool:
    return targets.itl is not None and used.itl is not None and used.itl > targets.itl


def _for_load(used: Usage, target: float) -> int:
    return _up(used.shards * used.busiest / target)


def _for_itl(used: Usage, target: float | None) -> int | None:
    """Fewest shards with which tokens come in time; None where none suffice."""
    if target is None or used.itl is None:
        return 0
    room = target / used.itl - (1.0 - used.busiest)
    return _up(used.shards * used.busiest / room) if room > _ROUNDING else None


def _up(shards: float) -> int:
    return math.ceil(shards - _ROUNDING)
